"""Each question of docs/queries.md has one answer, in Python and on the command line."""

import json
import shlex
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from typer.testing import CliRunner

from flows.cli import app
from pipeline.store.trajectories import publish
from tests.pipeline.store.questions import Question, fill, preamble, questions, templates


@pytest.fixture(scope="module", autouse=True)
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("questions")
    made = templates(layers=3, heads=24, sequences=4, positions=101)
    publish(fill(f"{folder}/run.zarr", made, range(0, 10000, 2000)))
    fill(f"{folder}/other.zarr", made, range(0, 12000, 3000))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


def numbers(answer: Any) -> np.ndarray:
    """The defined numbers of an answer, in order of size."""
    assert isinstance(answer, xr.DataArray | pd.Series)
    found = np.asarray(answer.values, dtype=float).ravel()
    return np.sort(found[~np.isnan(found)])


def test_there_are_ten_questions():
    assert len(questions()) == 10
    assert all("\n" not in question.python + question.shell for question in questions())


@pytest.mark.parametrize("question", questions(), ids=lambda question: question.title)
def test_both_answers_are_the_same(question: Question):
    expected = numbers(eval(question.python, preamble()))
    assert len(expected) > 0

    program, *arguments = shlex.split(question.shell)
    assert program == "ontogeny"
    if "--format" in arguments:
        place = arguments.index("--format")
        printed = CliRunner().invoke(app, arguments)
        assert printed.exit_code == 0 and printed.stdout
        del arguments[place : place + 2]
    answered = CliRunner().invoke(app, [*arguments, "--json"])
    assert answered.exit_code == 0, answered.output
    rows = json.loads(answered.stdout)
    variable = next(a for a in arguments if "/" in a).partition("/")[2]
    np.testing.assert_allclose(numbers(pd.Series([row[variable] for row in rows])), expected)
