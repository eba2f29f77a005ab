"""The oldest versions with which the tests pass are the lower bounds of the engine's packages."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.gpu.wheels import INSTALLED, read_versions

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OLDER = read_versions((ROOT / "tests" / "older-versions.txt").read_text())
TESTED = read_versions((ROOT / "constraints.txt").read_text())


def test_every_lower_bound_of_the_engine_is_tested() -> None:
    for one in map(Requirement, PROJECT["optional-dependencies"]["engine"]):
        (bound,) = one.specifier
        version = OLDER[canonicalize_name(one.name)]
        assert bound.operator == ">=", one
        assert Version(version) == Version(bound.version), f"{one}, and {version} is tested"


def test_older_versions_meet_all_that_the_package_needs() -> None:
    for one in map(Requirement, PROJECT["dependencies"]):
        version = OLDER.get(canonicalize_name(one.name))
        assert version is None or one.specifier.contains(version), one


def test_older_versions_replace_others() -> None:
    assert OLDER.keys() <= TESTED.keys()
    assert all(OLDER[name] != TESTED[name] for name in OLDER.keys() - {"safetensors"})


def test_older_versions_are_those_of_a_machine_with_a_gpu() -> None:
    there = read_versions(INSTALLED.read_text())
    assert {name: there[name] for name in OLDER} == dict(OLDER)
