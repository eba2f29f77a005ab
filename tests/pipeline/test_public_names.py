"""The public names of `pipeline`."""

import importlib
import subprocess
import sys
import tomllib
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import pytest

import pipeline

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", pipeline.__all__)
def test_every_public_name_is_there_and_listed(name: str) -> None:
    assert getattr(pipeline, name) is not None
    assert name in dir(pipeline)


def test_public_names_are_sorted_and_once() -> None:
    assert pipeline.__all__ == sorted(set(pipeline.__all__))


def test_version_is_that_of_the_distribution() -> None:
    assert pipeline.__version__ == version("ontogeny")


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'open_rum'"):
        pipeline.open_rum  # noqa: B018


def test_audit_is_a_function_though_its_package_was_imported(tmp_path: Path) -> None:
    importlib.import_module("pipeline.auditing.faults")
    with pytest.raises(pipeline.InputError, match="absent"):
        pipeline.audit(str(tmp_path / "absent"))


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, pipeline\nassert 'torch' not in sys.modules\npipeline.load_analysis"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("package", ["pipeline", "flows"])
def test_type_hints_are_shipped(package: str) -> None:
    assert (files(package) / "py.typed").is_file()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "py.typed" in settings["tool"]["setuptools"]["package-data"]["*"]
