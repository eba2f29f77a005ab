"""Stores in which little can be said: nothing fails, and what is not said has its reason."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from flows.cli.together import together_lines
from pipeline.errors import InputError
from pipeline.query.collection import origin_of
from pipeline.query.together import together_answers
from tests.flows.planted_store import Planted, ontogeny

NEVER = 10**12  # a step far beyond the run


@dataclass(frozen=True)
class Changed(Planted):
    """A planted run, each of whose arrays is changed in place. change: of group and array."""

    change: Callable[[str, np.ndarray], None] = lambda group, array: None

    def _rows(self, *about) -> Iterator:
        for group, row, values in super()._rows(*about):
            for array in values.values():
                self.change(group, array)
            yield group, row, values


def _padding(group: str, array: np.ndarray) -> None:
    if group == "token_loss" and array.ndim == 2:
        array[:, 9:] = np.nan


def _constant(group: str, array: np.ndarray) -> None:
    array[...] = 0.25


def _infinite(group: str, array: np.ndarray) -> None:
    if group == "token_loss":
        array[...] = np.inf


def test_runs_without_a_sudden_change_have_no_events(tmp_path: Path) -> None:
    still = Planted(middle=NEVER, means=False).write(tmp_path / "still.zarr")
    assert "The spread is over" in ontogeny("transitions", still, "--axis", "steps")
    found = json.loads(ontogeny("transitions", still, "--axis", "steps", "--json"))
    assert found["events"] == found["over_runs"] == []


def test_no_cell_of_a_table_is_cut_off(tmp_path: Path) -> None:
    printed = ontogeny("transitions", Planted().write(tmp_path / "run.zarr"))
    (line,) = [line for line in printed.splitlines() if "L0H1" in line]
    assert line.strip().startswith("head_scores/induction L0H1 ") and "…" not in printed


def test_loss_at_padding_is_named_and_not_printed(tmp_path: Path) -> None:
    store = Changed(change=_padding).write(tmp_path / "run.zarr")
    printed = ontogeny("losses", store, "--tokens", "3,10,19,900")
    assert "Tokens whose loss is not finite: 10, 19." in printed
    assert "Tokens whose loss is beyond the sequences: 900." in printed
    assert "nan" not in printed and "None" not in printed
    assert json.loads(ontogeny("losses", store, "--json"))["positions"]["not_finite"] == [10, 19]


def test_a_derivative_says_over_what_width_it_was_fitted(tmp_path: Path) -> None:
    printed = ontogeny("losses", Planted().write(tmp_path / "run.zarr"))
    # Checkpoints are 0.2 e-folds apart: five of them lie within 0.4, and none within 0.08.
    assert "fitted 0.39 e-folds wide, not 0.08" in printed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_constant, "all checkpoints have the same losses"),
        (_infinite, "the score at step 100,000 is not finite"),
    ],
)
def test_losses_that_say_nothing_have_a_reason(tmp_path: Path, change, said: str) -> None:
    store = Changed(change=change).write(tmp_path / "run.zarr")
    assert said in ontogeny("losses", store)
    json.loads(ontogeny("losses", store, "--json"), parse_constant=pytest.fail)


def test_together_says_that_no_head_series_changes(tmp_path: Path) -> None:
    still = Planted(middle=NEVER).write(tmp_path / "still.zarr")
    lines = [*together_lines(together_answers([still], nulls=5))]
    assert any(line.startswith("No head series is known to change") for line in lines)


def test_an_origin_without_entries_is_refused(tmp_path: Path) -> None:
    none = xr.Dataset({"induction": (("step", "layer"), np.zeros((3, 0)))}, {"step": [0, 1, 2]})
    run = xr.DataTree.from_dict({"head_scores": none})
    with pytest.raises(InputError, match="has no entries"):
        origin_of("run", run, "head_scores/induction > 0.3", "step")
