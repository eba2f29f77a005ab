"""The check on a GPU, run on the CPU: its figures, and what it says of faults, crashes and time."""

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.gpu import check, summary
from tests.gpu.comparing import worst_by_measure, worst_of

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests" / "gpu" / "check.sh"
PARTS = ("kernels", "losses", "reductions")

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path, str]:
    """Return exit status, folder and output of the script, run from another folder."""
    out = tmp_path_factory.mktemp("out")
    # Without the wheels of another Python that the checkout may hold.
    arguments = ["--wheels", str(out), "--device", "cpu", "--small", "--budget", "500", *PARTS]
    done = subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        cwd=out, env=os.environ | {"PYTHON": sys.executable, "OUT": str(out)},
        capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, out, done.stdout + done.stderr


def read(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "figures.jsonl").read_text().splitlines()]


def test_all_figures_hold_on_the_cpu(checked: tuple[int, Path, str]) -> None:
    status, out, said = checked
    lines = read(out)
    assert not [line for line in lines if "failed" in line or line.get("holds") is False], said
    assert not [line for line in lines if "skipped" in line]
    assert status == 0


def test_each_part_has_figures_with_limits(checked: tuple[int, Path, str]) -> None:
    found = json.loads((checked[1] / "summary.json").read_text())
    assert list(found["parts"]) == ["machine", *PARTS] and found["holds"] is True
    for name in PARTS:
        assert found["parts"][name]["limited"] >= 20 and found["parts"][name]["seconds"] > 0
    said = {line["name"]: line["value"] for line in found["parts"]["machine"]["others"]}
    assert said["device"] == "cpu" and said["torch"] != "not installed"


def test_the_summary_to_read_is_printed_too(checked: tuple[int, Path, str]) -> None:
    text = (checked[1] / "summary.md").read_text()
    assert text.strip() in checked[2]
    assert "all figures hold" in text and "| kernels |" in text


def test_every_dtype_and_kernel_of_the_cpu_is_checked(checked: tuple[int, Path, str]) -> None:
    outputs = [line["labels"] for line in read(checked[1]) if line.get("name") == "output"]
    assert {(of["kernel"], of["dtype"]) for of in outputs} >= {
        (kernel, dtype)
        for kernel in ("cpu", "exact")
        for dtype in ("float32", "bfloat16", "float16")
    }


PLANTED = {
    "wrong": """
        from pipeline.engine import kernels
        from tests.gpu import attention_cases, kernels as part

        attend = kernels.attend

        def nearly(*arguments):
            out, lse = attend(*arguments)
            return out * (1 + 1e-4), lse

        def run(report):
            kernels.attend = nearly
            attention_cases.cases = lambda small: [attention_cases.Case("plain", 40)]
            part.run(report)
        """,
    "fallen_back": """
        from pipeline.engine import kernels
        from tests.gpu import attention_cases, kernels as part

        def run(report):
            kernels.choose = lambda *_, **__: None
            attention_cases.cases = lambda small: [attention_cases.Case("plain", 40)]
            part.run(report)
        """,
    "lost_op": """
        from pipeline.engine import kernels
        from tests.gpu import attention_cases, kernels as part

        def run(report):
            kernels._OPS[kernels._cpu] = "no_such_op"
            attention_cases.cases = lambda small: []
            part.run(report)
        """,
    "raises": "def run(report):\n    raise ValueError('no such thing')\n",
    "dies": "import os\n\ndef run(report):\n    report.figure('before', 1.0)\n    os.abort()\n",
    "hangs": """
        import time

        def run(report):
            report.figure("before", 1.0)
            time.sleep(600)
        """,
    "holds": "def run(report):\n    report.figure('nothing wrong', 0.5, at_most=1)\n",
    "not_a_number": "def run(report):\n    report.figure('error', float('nan'), at_most=1)\n",
    "in_part": """
        def wrong():
            raise ValueError("no such thing")

        def run(report):
            report.attempt("first", wrong)
            report.attempt("second", wrong, needed=1e6)
            report.attempt("third", lambda: report.figure("error", 0, at_most=0))
        """,
    "chatty": """
        def run(report):
            print("a warning")
            report.figure("error", 0, at_most=0)
        """,
}


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with modules of parts of the check, which its processes can import."""
    for name, text in PLANTED.items():
        (tmp_path / f"planted_{name}.py").write_text(textwrap.dedent(text))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{tmp_path}")
    return tmp_path


def run_part(folder: Path, name: str, left: float = 300.0, usual: float = 1.0):
    """Return what a planted part prints, and the exit status that follows from it."""
    with (folder / "figures.jsonl").open("w") as file:
        until = time.monotonic() + left
        ran = check.Check("cpu", True, folder, until, file)
        ran.run(name, f"planted_{name}", usual)
    assert read(folder) == ran.lines
    return ran.lines, summary.write(ran.lines, folder)


def test_an_error_of_a_kernel_fails_the_check(planted: Path) -> None:
    lines, status = run_part(planted, "wrong")
    wrong = [line for line in lines if line.get("holds") is False]
    assert status == 1
    assert {(line["name"], line["labels"]["dtype"]) for line in wrong} >= {("output", "float32")}
    assert "NOT all figures hold" in (planted / "summary.md").read_text()


def test_another_kernel_than_expected_fails_the_check(planted: Path) -> None:
    lines, status = run_part(planted, "fallen_back")
    whys = {line["why"] for line in lines if "failed" in line}
    assert whys == {"exact, not cpu"} and status == 1


def test_a_missing_op_is_named(planted: Path) -> None:
    lines, status = run_part(planted, "lost_op")
    (missing,) = [line for line in lines if "failed" in line]
    assert "torch.ops.aten.no_such_op" in missing["why"] and status == 1


@pytest.mark.parametrize(
    ("name", "why"), [("raises", "no such thing"), ("dies", "SIGABRT"), ("hangs", "ended after")]
)
def test_a_part_that_ends_badly_is_named(planted: Path, name: str, why: str) -> None:
    lines, status = run_part(planted, name, left=6.0 if name == "hangs" else 300.0)
    (failed,) = [line for line in lines if "failed" in line]
    assert failed["part"] == name and why in failed["why"] and status == 1
    # What it printed before that is kept.
    assert [line["name"] for line in lines if "name" in line][:-1] == (
        [] if name == "raises" else ["before"]
    )


def test_one_check_of_a_part_fails_without_the_others(planted: Path) -> None:
    lines, status = run_part(planted, "in_part")
    (failed,) = [line for line in lines if "failed" in line]
    assert failed["failed"] == "first" and "no such thing" in failed["why"] and status == 1
    (skipped,) = [line for line in lines if "skipped" in line]
    assert skipped["skipped"] == "second" and skipped["why"].startswith("it needs 1000000 s, and ")
    assert [line["name"] for line in lines if "name" in line] == ["error", "seconds"]


def test_a_part_that_does_not_fit_is_skipped_by_name(planted: Path) -> None:
    lines, status = run_part(planted, "holds", left=10.0, usual=1000.0)
    assert lines == [
        {"part": "holds", "skipped": "holds", "why": "it needs 125 s at least, and 10 s are left"}
    ]
    assert status == 0
    assert "skipped: holds" in (planted / "summary.md").read_text()


def test_a_figure_within_its_limit_holds_and_nan_does_not(planted: Path) -> None:
    assert run_part(planted, "holds")[1] == 0
    lines, status = run_part(planted, "not_a_number")
    assert lines[0]["value"] == "nan" and lines[0]["holds"] is False and status == 1


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_nan_is_worse_than_any_difference_in_any_place(wrong: int) -> None:
    expected = {f"measure/{name}": np.ones(3) for name in "abc"}
    found = {name: value + 0.5 for name, value in expected.items()}
    found[list(found)[wrong]][1] = np.nan
    ((_, variable, difference, _),) = worst_by_measure(found, expected)
    assert np.isnan(difference) and variable == "abc"[wrong]
    differences = [0.5, 0.5, 0.5]
    differences[wrong] = float("nan")
    assert np.isnan(worst_of(differences)) and worst_of([0.1, 0.3, 0.2]) == 0.3


def test_other_output_of_a_part_is_no_figure(planted: Path) -> None:
    lines, status = run_part(planted, "chatty")
    assert [line["name"] for line in lines] == ["error", "seconds"] and status == 0


def test_without_a_gpu_nothing_else_is_tried(tmp_path: Path) -> None:
    status = check.main(["--out", str(tmp_path), "kernels"], {"kernels": ("no_such_module", 1)})
    lines = read(tmp_path)
    assert status == 1
    assert {"no CUDA device"} == {line["failed"] for line in lines if "failed" in line}
    assert {"kernels"} == {line["skipped"] for line in lines if "skipped" in line}


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        check.main(["--device", "cpu", "kernel"])
    assert (
        stopped.value.code == 2 and "no part kernel: there are kernels" in capsys.readouterr().err
    )


def test_every_part_has_a_module_and_a_time() -> None:
    for module, seconds in check.PARTS.values():
        assert importlib.util.find_spec(module) is not None and seconds > 0


def test_wheels_of_a_folder_are_installed_beside_the_repository(tmp_path: Path) -> None:
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "travelled-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("travelled.py", "WHERE = __file__\n")
        about = {
            "METADATA": "Metadata-Version: 2.1\nName: travelled\nVersion: 1.0\n",
            "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "RECORD": "",
        }
        for name, text in about.items():
            wheel.writestr(f"travelled-1.0.dist-info/{name}", text)
    python = tmp_path / "python"  # runs pip, and instead of the check prints what it was given
    code = "import sys, travelled, tests.gpu; print(travelled.WHERE, tests.gpu.__file__, sys.argv)"
    python.write_text(
        f'#!/bin/bash\n[ "$2" = pip ] && exec {sys.executable} "$@"\n'
        f"exec {sys.executable} -c '{code}' \"$@\"\n"
    )
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", str(SCRIPT), "--wheels", str(folder), "--small", "losses"],
        cwd=tmp_path, env=os.environ | {"PYTHON": str(python), "OUT": str(tmp_path)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    where, package, *given = done.stdout.split()
    assert not Path(where).exists()  # the temporary folder is gone
    assert Path(package).is_relative_to(ROOT)
    assert "'--small'," in given and "'losses']" in given


def test_a_folder_without_wheels_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "none")
    done = subprocess.run(
        ["bash", str(SCRIPT), "--wheels", missing], capture_output=True, text=True
    )
    assert done.returncode == 2 and missing in done.stderr
