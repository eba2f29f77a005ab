"""Imports point one way: computed from the source of every module, run or not."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = [
    *(
        "redaction",
        "printable",
        "errors",
        "extras",
        "addresses",
        "outside",
        "schema",
        "config",
        "writing",
        "retrying",
        "progress",
        "checkpoints",
        "models",
        "auditing",
        "inputs",
        "training",
    ),
    *("engine", "measures", "store", "analysis", "aggregate", "query", "findings", "report"),
    "experiments",
    *("trackers", "callback"),
]
AT_THE_TOP = {
    *("__init__", "addresses", "errors", "extras", "outside", "printable", "progress", "redaction"),
    *("retrying", "schema", "writing"),
}


def modules_of(package: str, root: Path = ROOT) -> dict[str, Path]:
    """Return the files of a package by the names of their modules."""
    named = {}
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named


def imports_of(module: str, path: Path, known: set[str]) -> set[str]:
    """Return the modules that a module imports, at its top or in a function.

    `from package import name` imports the module of that name if there is one. Counts also
    `import_module` with the name as a constant.
    """
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= set(_from(node, package, known))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found |= {ast.literal_eval(one) for one in node.args if isinstance(one, ast.Constant)}
    return found


def _from(node: ast.ImportFrom, package: str, known: set[str]) -> Iterator[str]:
    source = node.module or ""
    if node.level:
        base = package.split(".")[: len(package.split(".")) - node.level + 1]
        source = ".".join([*base, *([source] if source else [])])
    for alias in node.names:
        full = f"{source}.{alias.name}"
        yield full if full in known else source


def all_imports() -> dict[str, set[str]]:
    modules = modules_of("pipeline") | modules_of("flows")
    return {name: imports_of(name, path, set(modules)) for name, path in modules.items()}


IMPORTS = all_imports()


def part(module: str) -> str:
    """Return the package of `pipeline` that a module belongs to."""
    return module.split(".")[1] if "." in module else ""


def upward_arrows(imports: dict[str, set[str]]) -> list[str]:
    """Return the imports between packages of `pipeline` that point against the order."""
    return [
        f"{module} -> {other}"
        for module, others in sorted(imports.items())
        for other in sorted(others)
        if part(module)
        and other.split(".")[0] == "pipeline"
        and module.startswith("pipeline.")
        and part(module) != part(other)
        and not (part(other) in ORDER and ORDER.index(part(other)) < ORDER.index(part(module)))
    ]


def roots_imported(package: str) -> dict[str, set[str]]:
    return {
        module: {other.split(".")[0] for other in others}
        for module, others in IMPORTS.items()
        if module.split(".")[0] == package
    }


def test_packages_import_only_from_those_before_them() -> None:
    assert upward_arrows(IMPORTS) == []


def test_the_order_names_every_package() -> None:
    present = {part(module) for module in IMPORTS if module.startswith("pipeline.")}
    assert present == set(ORDER)


def test_only_shared_foundations_stand_at_the_top() -> None:
    assert {path.stem for path in (ROOT / "pipeline").glob("*.py")} == AT_THE_TOP


@pytest.mark.parametrize(
    ("package", "never"),
    [("pipeline", {"ray", "prefect", "flows"}), ("flows", {"numpy", "torch"})],
)
def test_each_side_leaves_the_other_its_libraries(package: str, never: set[str]) -> None:
    assert {module: names & never for module, names in roots_imported(package).items()} == {
        module: set() for module in roots_imported(package)
    }


@pytest.mark.parametrize("package", ["pipeline", "flows"])
def test_no_module_is_imported_by_what_it_imports(package: str) -> None:
    own = {
        module: {other for other in others if other in IMPORTS and other != module}
        for module, others in IMPORTS.items()
        if module.split(".")[0] == package and module != package
    }
    try:
        list(TopologicalSorter(own).static_order())
    except CycleError as error:
        pytest.fail(f"modules import each other: {' -> '.join(error.args[1])}")


def test_an_upward_import_is_found(tmp_path: Path) -> None:
    source = tmp_path / "pipeline" / "store" / "rows.py"
    source.parent.mkdir(parents=True)
    source.write_text(
        "from pipeline import report, schema\nfrom ..query import run\n"
        "def f():\n    import pipeline.errors, pipeline.findings.gaps\n"
        "    importlib.import_module('pipeline.analysis.run').go()\n"
    )
    known = {"pipeline.report", "pipeline.schema", "pipeline.query.run"}
    imports = imports_of("pipeline.store.rows", source, known)
    assert upward_arrows({"pipeline.store.rows": imports}) == [
        "pipeline.store.rows -> pipeline.analysis.run",
        "pipeline.store.rows -> pipeline.findings.gaps",
        "pipeline.store.rows -> pipeline.query.run",
        "pipeline.store.rows -> pipeline.report",
    ]
