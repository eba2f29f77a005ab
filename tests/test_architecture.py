"""docs/architecture.md names every module once, and each function of its walks exists."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
WALK = re.compile(r"^### ([^\n]+): (\d+) hops$\n(.*?)(?=^#|\Z)", re.MULTILINE | re.DOTALL)
HOP = re.compile(r"^(\d+)\. `([\w/]+\.py)` `([\w.]+)` ", re.MULTILINE)


def modules_in_tree(page: str) -> list[str]:
    """Return the paths of the files in the page's tree."""
    tree = page.partition("## Every module")[2].partition("```\n")[2].partition("```")[0]
    folders: list[str] = []
    found = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, meaning = line.strip().partition(" ")
        assert meaning.strip(), f"{name} has no annotation"
        if name.endswith("/"):
            folders = [*folders[:depth], name.rstrip("/")]
        else:
            found.append("/".join([*folders[:depth], name]))
    return found


def functions_of(path: Path) -> set[str]:
    """Return a file's functions, and the methods of its classes as `Class.method`."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        owner = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        for one in node.body if isinstance(node, ast.ClassDef) else [node]:
            if isinstance(one, ast.FunctionDef):
                found.add(f"{owner}{one.name}")
    return found


def test_the_tree_names_every_module_once() -> None:
    modules = [
        str(path.relative_to(ROOT))
        for package in ("pipeline", "flows")
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    ]
    assert Counter(modules_in_tree(PAGE)) == Counter(modules)


def test_there_are_four_walks() -> None:
    assert len(WALK.findall(PAGE)) == 4


@pytest.mark.parametrize(("title", "hops", "text"), WALK.findall(PAGE))
def test_a_walk_has_as_many_hops_as_it_says(title: str, hops: str, text: str) -> None:
    assert [int(number) for number, _, _ in HOP.findall(text)] == list(range(1, int(hops) + 1))


@pytest.mark.parametrize(("file", "function"), sorted({(f, n) for _, f, n in HOP.findall(PAGE)}))
def test_functions_of_the_walks_exist(file: str, function: str) -> None:
    assert function in functions_of(ROOT / file)
