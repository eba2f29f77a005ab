"""The page on writing a measure: its files and commands, as a user would run them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline import open_run

PAGE = Path(__file__).parents[3] / "docs" / "writing-a-measure.md"
FENCE = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
NAMED = re.compile(r"`(\w+\.(?:py|yaml))`:\Z")
# Names that the user's folder may well hold, and that are packages of ours.
OF_THE_USERS = {"pipeline.py": "raise SystemExit('the wrong pipeline')\n", "flows/__init__.py": ""}


# Follows the page in one process; `ontogeny ...` is what the command of that name runs.
FOLLOW = """
import json, shlex, sys
import ontogeny
ontogeny.import_own_packages()
from flows.cli import app
for language, text in json.load(sys.stdin):
    if language == "python":
        exec(text, {})
        continue
    for line in text.splitlines():
        command, *arguments = shlex.split(line)
        assert command == "ontogeny" and not app(arguments, standalone_mode=False), line
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write and run everything that the page shows, in a user's folder."""
    here = tmp_path_factory.mktemp("user")
    for name, text in OF_THE_USERS.items():
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text(text)
    page, steps = PAGE.read_text(), []
    for block in FENCE.finditer(page):
        language, text = block.groups()
        named = _file_of(page[: block.start()])
        if named and not (here / named).exists():
            (here / named).write_text(text)
        elif language in ("bash", "python"):
            steps.append((language, text))
    done = subprocess.run(
        [sys.executable, "-c", FOLLOW],
        cwd=here,
        input=json.dumps(steps),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (here / "said.txt").write_text(done.stdout)
    return here


def _file_of(before: str) -> str | None:
    """Return the file whose name, with a colon, is right before a block."""
    found = NAMED.search(before.rstrip())
    return found and found[1]


def test_the_page_gives_the_numbers_that_its_definition_says(folder: Path):
    run = open_run(str(folder / "run.zarr"))
    loss = run["token_loss"].loss.values.astype(np.float64)[:, :, 4:].reshape(8, -1)
    centred = loss - loss.mean(axis=1, keepdims=True)
    expected = (centred**3).mean(axis=1) / loss.std(axis=1) ** 3
    np.testing.assert_allclose(run["skew"].skewness, expected, rtol=1e-5)
    assert "mean) / standard deviation" in run["skew"].attrs["definition"]


def test_the_command_line_and_the_report_show_it_as_any_other(folder: Path):
    said = (folder / "said.txt").read_text()
    assert said.startswith("skew (version 1)") and "parameter skip = 0" in said
    assert str(folder / "my_measures.py") in said
    report = "".join(path.read_text() for path in folder.glob("report/**/*.html"))
    assert "Skewness of the per-token losses" in report
    assert "Skewness of the losses over all predictions" in report
