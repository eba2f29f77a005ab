"""The parts of the check on a GPU that compare measures, stores and processes, on a CPU."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.gpu.comparing import relative, worst_by_measure
from tests.gpu.report import Report
from tests.gpu.small_runs import ROOT

PARTS = ("measures", "end_to_end", "out_of_memory", "shared_gpu")


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_these_parts_hold_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.gpu.check", "--device", "cpu", "--small"]
    command += ["--budget", "1400", "--out", str(tmp_path), *PARTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    found = json.loads((tmp_path / "summary.json").read_text())
    assert done.returncode == 0 and found["holds"] is True, done.stdout[-3000:]
    for name in PARTS:
        assert found["parts"][name]["limited"] > 0, name


def test_a_difference_is_relative_to_the_largest_number() -> None:
    expected = np.array([[1.0, -4.0], [np.nan, 2.0]])
    assert relative(expected.copy(), expected) == 0
    assert relative(expected + 1, expected) == 0.25
    assert relative(np.zeros(2), np.zeros(2)) == 0
    assert relative(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])) == 0.25


def test_a_variable_that_is_zero_but_for_rounding_relates_to_its_measure() -> None:
    expected = {"a/x": np.array([2.0]), "a/rest": np.array([1e-17]), "a/small": np.array([1e-4])}
    found = {"a/x": np.array([2.0]), "a/rest": np.array([2e-8]), "a/small": np.array([1.1e-4])}
    ((_, variable, difference, _),) = worst_by_measure(found, expected)
    assert variable == "small" and difference == pytest.approx(0.1)
    assert relative(found["a/rest"], expected["a/rest"], 2.0) == pytest.approx(1e-8)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (np.array([1.0, np.nan]), np.array([1.0, 2.0])),
        (np.array([1.0, 2.0]), np.array([1.0, np.nan])),
        (np.array([1.0]), np.array([1.0, 2.0])),
    ],
)
def test_nan_on_one_side_and_other_shapes_are_outside_of_every_limit(
    found: np.ndarray, expected: np.ndarray, tmp_path: Path
) -> None:
    report = Report("test", "cpu", True, tmp_path, 0.0)
    report.figure("difference", relative(found, expected), at_most=1e9)
    assert report.failed


def test_the_worst_variable_of_each_measure_is_named() -> None:
    expected = {"a/x": np.array([1.0, 2.0]), "a/y": np.array([4.0]), "a/n": np.array([1, 2])}
    found = {"a/x": np.array([1.0, 2.5]), "a/y": np.array([4.4]), "a/n": np.array([1, 3])}
    assert list(worst_by_measure(found, expected)) == [
        ("a", "x", 0.25, False),
        ("a", "n", 0.5, True),
    ]
    found["a/y"] = np.array([np.nan])
    assert next(iter(worst_by_measure(found, expected)))[1] == "y"
    with pytest.raises(ValueError, match="a/y"):
        list(worst_by_measure({"a/x": found["a/x"]}, expected))
