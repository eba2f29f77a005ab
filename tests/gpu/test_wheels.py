"""The choice of wheels: which travel, which are left to the machine, and what is refused."""

import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.gpu import wheels
from tests.gpu.wheels import INSTALLED, Needed, UnfitError, read_versions

PROJECT = {
    "dependencies": ["absent", "known>=2", "loose", "bounded>=3"],
    "optional-dependencies": {"engine": ["torch>=2.11"]},
}
THERE = {"known": "2.1", "loose": "", "bounded": "", "base": "", "torch": "2.11.0", "low": ""}


def package(name: str, version: str, *requires: str) -> Needed:
    return Needed(name, version, tuple(map(Requirement, requires)))


RESOLVED = [
    package("absent", "1.0", "base>=4.16", "low>=1.0", "known>=1"),
    package("loose", "7.0"),
    package("bounded", "3.5"),
    package("base", "4.16"),
    package("low", "9.0"),
]


def test_packages_of_known_version_are_not_resolved() -> None:
    found = {one.name for one in wheels.required(PROJECT, THERE)}
    assert found == {"absent", "loose", "bounded", *wheels.FOR_TESTS}


def test_a_version_that_is_too_old_is_refused_in_one_sentence() -> None:
    with pytest.raises(UnfitError) as refused:
        wheels.required(PROJECT, {**THERE, "torch": "2.10.0"})
    sentence = "installed.txt has torch 2.10.0, and pyproject.toml needs torch>=2.11: no wheel"
    assert str(refused.value).startswith(sentence)


def test_what_is_absent_or_may_be_too_old_travels() -> None:
    taken = wheels.carried(RESOLVED, wheels.required(PROJECT, THERE), THERE)
    # `base` is needed in the very version that was resolved: the machine may have an older one.
    assert [one.name for one in taken] == ["absent", "bounded", "base"]
    assert wheels.relied_on(taken, THERE) == {"low": [">=1.0 by absent"]}
    assert wheels.met_there(PROJECT, RESOLVED, taken, THERE) == [
        "known==2.1", "loose", "low", "torch==2.11.0",
    ]  # fmt: skip


def test_pip_resolves_and_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = tmp_path / "index"
    index.mkdir()
    write_wheel(index, "outer", "1.0", "inner>=2", "never; python_version < '3.12'")
    for version in ("2.0", "3.0"):
        write_wheel(index, "inner", version)
    write_wheel(index, "never", "1.0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    resolved = wheels.resolve(sys.executable, [Requirement("outer")], {"inner": "2.0"})
    versions = {one.name: one.version for one in resolved}
    assert versions["inner"] == "2.0"
    assert [str(one) for one in resolved[0].requires] == ["inner>=2"]
    files = wheels.download(sys.executable, resolved, tmp_path / "wheels")
    assert files["inner"].name == "inner-2.0-py3-none-any.whl"
    with pytest.raises(UnfitError, match=r"^pip install failed: ERROR: .*nowhere"):
        wheels.resolve(sys.executable, [Requirement("nowhere")], {})


@pytest.mark.parametrize("python", ["no-such-command", "true"])
def test_another_program_is_refused_in_one_sentence(python: str) -> None:
    with pytest.raises(UnfitError, match=f"^{python} is no Python, and Python 3.12 is needed: "):
        wheels.require_python(python)


def write_wheel(folder: Path, name: str, version: str, *requires: str) -> None:
    """Write a wheel without modules."""
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {one}\n" for one in requires)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
        )
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


def test_the_list_of_the_machine_meets_what_the_package_needs() -> None:
    there = read_versions(INSTALLED.read_text())
    assert there["torch"] and "pydantic" not in there
    wheels.required(wheels.read_project(), there)  # raises if one is too old
