"""All that is imported is declared in pyproject.toml, and what is declared is imported."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWN = {"flows", "infra", "ontogeny", "ontogeny_xarray", "pipeline", "tests"}

NOT_IMPORTED = {
    "fastapi": "holds Prefect's back",
    "s3fs": "fsspec opens s3:// with it",
    "sqlalchemy": "holds Prefect's back",
}
NOT_IMPORTED_IN_TESTS = {
    "accelerate": "transformers' Trainer needs it",
    "beartype": "jaxtyping checks shapes with it",
    "h5netcdf": "xarray writes and reads netCDF with it",
    "h5py": "h5netcdf writes with it",
    "ipykernel": "nbclient runs notebooks with it",
    "pyright": "a command",
    "pytest-timeout": "a plugin of pytest",
    "ruff": "a command",
}
# Clients of experiment trackers: whoever names one in `log_to` installs it.
TRACKERS = {"mlflow", "tensorboard", "trackio", "wandb"}
# Benchmarks beside one another import each other by name; this one has its own requirements.
LEFT_OUT = {"loss_space", "servers", "transformer_lens", "transitions", "workload"}


def test_what_the_package_imports_is_declared_and_the_reverse() -> None:
    own = ROOT / "ontogeny.py", ROOT / "ontogeny_xarray.py"
    imported = distributions(*own, *python_in("pipeline", "flows")) - TRACKERS
    optional = names(PROJECT["optional-dependencies"]["figures"])
    assert imported == names(PROJECT["dependencies"]) - NOT_IMPORTED.keys() | optional


def test_what_the_tests_import_is_declared_and_the_reverse() -> None:
    extra = names(PROJECT["optional-dependencies"]["test"])
    imported = distributions(*python_in("tests", "examples"))
    assert imported - names(PROJECT["dependencies"]) == extra - NOT_IMPORTED_IN_TESTS.keys()


def names(requirements: Iterable[str]) -> set[str]:
    return {normal(Requirement(requirement).name) for requirement in requirements}


def distributions(*files: Path) -> set[str]:
    """Return the distributions of all modules that the files import, also inside functions."""
    known = packages_distributions()
    modules = {module for file in files for module in imported_by(file)}
    outside = modules - OWN - LEFT_OUT - sys.stdlib_module_names
    return {normal(known.get(module, [module])[0]) for module in outside}


def imported_by(file: Path) -> Iterable[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def python_in(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
