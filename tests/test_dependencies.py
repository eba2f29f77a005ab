"""All that is imported is declared in pyproject.toml, and what is declared is imported."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from pipeline import extras
from pipeline.extras import missing_package

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
FOR_USERS = EXTRAS.keys() - {"all", "docs", "test"}
OWN = {"flows", "infra", "ontogeny", "ontogeny_xarray", "pipeline", "tests"}

NOT_IMPORTED = {
    "fastapi": "holds Prefect's back",
    "h5netcdf": "xarray writes and reads netCDF with it",
    "h5py": "h5netcdf writes with it",
    "prefect-docker": "imported by its name",
    "prefect-kubernetes": "imported by its name",
    "prefect-slurm": "a worker, which Prefect starts",
    "s3fs": "fsspec opens s3:// with it",
    "sqlalchemy": "holds Prefect's back",
}
NOT_IMPORTED_IN_TESTS = {
    "beartype": "jaxtyping checks shapes with it",
    "build": "a command",
    "ipykernel": "nbclient runs notebooks with it",
    "pyright": "a command",
    "pytest-timeout": "a plugin of pytest",
    "ruff": "a command",
}
# Clients of experiment trackers: whoever names one in `log_to` installs it.
TRACKERS = {"mlflow", "tensorboard", "trackio", "wandb"}
# Benchmarks beside one another import each other by name; this one has its own requirements.
LEFT_OUT = {
    "deepspeed",
    "loss_space",
    "olmo_core",
    "servers",
    "transformer_lens",
    "transitions",
    "workload",
}


def test_what_the_package_imports_is_declared_and_the_reverse() -> None:
    own = ROOT / "ontogeny.py", ROOT / "ontogeny_xarray.py"
    imported = distributions(*own, *python_in("pipeline", "flows")) - TRACKERS
    assert imported == of_the_package() - NOT_IMPORTED.keys()


def test_what_the_documentation_site_imports_is_declared() -> None:
    hooks = python_in("infra/docs")
    imported = distributions(*hooks) - {path.stem.replace("_", "-") for path in hooks}
    extra = names(PROJECT["optional-dependencies"]["docs"])
    assert "mkdocs" in imported and imported <= extra | names(PROJECT["dependencies"])


def test_what_the_tests_import_is_declared_and_the_reverse() -> None:
    extra = names(EXTRAS["test"])
    # Programs beside data files wrote them once, in environments of their own.
    files = python_in("tests", "examples")
    imported = distributions(*(f for f in files if not f.is_relative_to(ROOT / "tests/data")))
    assert imported - of_the_package() == extra - NOT_IMPORTED_IN_TESTS.keys()


def test_all_has_every_extra_for_users() -> None:
    (everything,) = EXTRAS["all"]
    assert Requirement(everything).extras == EXTRAS.keys() - {"all", "docs", "test"}


@pytest.mark.parametrize("extra", sorted(FOR_USERS))
def test_a_missing_package_names_its_extra(extra: str) -> None:
    known = installed()
    for module in extras._EXTRAS[extra][1]:
        distribution = normal(known.get(module, [module])[0])
        assert distribution in names(EXTRAS[extra]), module
        sentence = missing_package(ModuleNotFoundError(name=f"{module}.part"))
        assert f"pip install 'ontogeny[{extra}]'" in sentence
        assert module in sentence
    assert missing_package(ModuleNotFoundError(name="unknown")) == ""


def of_the_package() -> set[str]:
    """Return the distributions that the package and its extras for users need."""
    extras_needed = (names(EXTRAS[extra]) for extra in FOR_USERS)
    return names(PROJECT["dependencies"]).union(*extras_needed)


@cache
def installed() -> Mapping[str, list[str]]:
    """Return the distributions of each importable module: reading them takes a while."""
    return packages_distributions()


def names(requirements: Iterable[str]) -> set[str]:
    return {normal(Requirement(requirement).name) for requirement in requirements}


def distributions(*files: Path) -> set[str]:
    """Return the distributions of all modules that the files import, also inside functions."""
    known = installed()
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
