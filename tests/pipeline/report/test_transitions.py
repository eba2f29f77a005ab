"""The sections on transitions: of one run, of its losses, and of several runs."""

import re

import numpy as np
import pytest
import xarray as xr

from pipeline.aggregate.run_transitions import transitions_of
from pipeline.report.several_runs import runs_section
from pipeline.report.trajectory import loss_space_plate
from pipeline.report.transitions import MOST_ROWS, transition_section
from tests.pipeline.report import fake


def section_of(run: xr.DataTree):
    found = transition_section(run, transitions_of(run))
    assert found is not None
    return found


def points(figure):
    """Return the midpoint of each marker, by the label of its row."""
    labels = figure.layout.yaxis.ticktext
    found: dict[str, list[float]] = {}
    for trace in figure.data:
        if trace.mode == "markers":
            for x, y in zip(trace.x, trace.y, strict=True):
                found.setdefault(labels[round(y)], []).append(x)
    return found


def test_planted_changes_are_drawn_where_they_are_the_largest_first() -> None:
    (figure,) = section_of(fake.induction_run()).plates[0].plots
    at = points(figure)
    assert at["L1H1 induction"] == [pytest.approx(900, rel=0.02)]
    assert at["L1H3 induction"] == [pytest.approx(1000, rel=0.02)]
    assert at["L0H2 previous token"] == [pytest.approx(700, rel=0.02)]
    labels = list(figure.layout.yaxis.ticktext)
    # Planted sizes: 0.94, 0.9, 0.75 and 0.35.
    assert labels[-4:] == [
        "L0H2 previous token", "L1H1 induction", "L1H3 induction", "L0H0 duplicate token",
    ]  # fmt: skip
    assert labels[0] == "mean loss" and "in-context score" in labels[:2]
    assert figure.layout.meta["step_axis"] == "log"


def test_the_shapes_are_counted_beside_the_rate_of_errors() -> None:
    note = section_of(fake.induction_run()).note
    counted = [int(word) for word in note.replace(",", "").split() if word.isdigit()]
    assert counted[0] == sum(counted[1:5]) == 43
    assert "Random walks look sudden too: about a quarter" in note and "2%" in note


def test_few_checkpoints_give_one_sentence() -> None:
    steps = fake.STEPS[:9]
    section = section_of(fake.run_of(head_scores=fake.head_scores(steps)))
    assert section.plates == ()
    assert section.note == (
        "Whether 40 series change suddenly cannot be told from fewer than 10 checkpoints."
    )
    assert transition_section(fake.run_of(), transitions_of(fake.run_of())) is None


def test_a_figure_has_few_rows_and_says_what_it_leaves_out() -> None:
    scores = fake.head_scores(layers=2, heads=18)[["induction", "induction_null"]]
    middles = np.linspace(650, 1300, 36).reshape(2, 18)
    for i, j in np.ndindex(2, 18):
        scores["induction"][:, i, j] = fake.rising(fake.STEPS, middles[i, j], 0.05, 0.9)
    plate = section_of(fake.run_of(head_scores=scores)).plates[0]
    shown = len(plate.plots[0].layout.yaxis.ticktext)
    assert shown == MOST_ROWS
    drawn = sum(len(trace.x) for trace in plate.plots[0].data if trace.mode == "markers")
    found = transitions_of(fake.run_of(head_scores=scores))
    total = int(np.isfinite(found["midpoint"].values).sum())
    left = re.search(r"not drawn: (\d+) more(?: and (\d+) smaller)?\)", plate.caption)
    assert left is not None and drawn + sum(int(one or 0) for one in left.groups()) == total


def along(path: np.ndarray, rng: np.random.Generator) -> xr.DataTree:
    """Return a run whose losses on 300 tokens follow a path in two directions (dims: step, 2)."""
    directions = np.linalg.qr(rng.standard_normal((300, 2)))[0].T
    losses = 5 + path @ directions + rng.normal(0, 1e-3, (len(path), 300))
    named = {"loss": (("step", "sequence", "position"), losses.reshape(-1, 10, 30))}
    return fake.run_of(token_loss=fake.group("token_loss", named, np.arange(len(path))))


def test_the_trajectory_has_shares_and_marks_no_corner_of_a_walk() -> None:
    rng = np.random.default_rng(3)
    run = along(rng.standard_normal((40, 2)).cumsum(axis=0), rng)
    (plate,) = loss_space_plate(run)
    (figure,) = plate.plots
    flat = run["token_loss"]["loss"].values.reshape(40, -1)
    sizes = np.linalg.svd(flat - flat.mean(axis=0), compute_uv=False) ** 2
    share = sizes / sizes.sum()
    assert f"{share[0]:.1%}" in figure.layout.xaxis.title.text
    assert f"{share[1]:.1%}" in figure.layout.yaxis.title.text
    assert "No corner beyond those of random walks" in plate.caption
    assert not any("corner" in note.text for note in figure.layout.annotations)


def test_a_real_corner_is_marked() -> None:
    moves = [[0, 0], *[[1, 0]] * 20, *[[0, 1]] * 20]
    (plate,) = loss_space_plate(along(np.cumsum(moves, axis=0), np.random.default_rng(0)))
    marked = [note.text for note in plate.plots[0].layout.annotations if "corner" in note.text]
    assert marked == ["corner: step 20"]
    assert "It turns a corner at step 20" in plate.caption


def test_losses_without_variance_have_no_trajectory() -> None:
    constant = along(np.zeros((20, 2)), np.random.default_rng(0))
    constant["token_loss"]["loss"][:] = 3.0
    assert list(loss_space_plate(constant)) == []


def test_runs_are_compared_by_role_of_heads() -> None:
    one, other = fake.head_scores(), fake.head_scores(seed=1)
    other["induction"] = other["induction"].roll(head=2, roll_coords=False)
    runs = {"a": fake.run_of(head_scores=one), "b": fake.run_of(head_scores=other)}
    section = runs_section(runs, {name: transitions_of(run) for name, run in runs.items()})
    assert section is not None
    at = points(section.plates[0].plots[0])
    assert at["first head: induction (2 of 2)"] == [pytest.approx(900, rel=0.02)] * 2
    labels = section.plates[0].plots[0].layout.yaxis.ticktext
    assert labels.index("first head: previous token (2 of 2)") < labels.index(
        "first head: induction (2 of 2)"
    )
    assert "over all runs given" in section.plates[0].caption
