import numpy as np
import pytest

from pipeline.findings.heads import Heads
from pipeline.report.combined_figures import (
    frequencies,
    loss_by_position,
    loss_profiles,
    losses_and_heads,
    progress,
)
from tests.pipeline.report import fake


def texts(figure):
    return [annotation.text for annotation in figure.layout.annotations]


def verticals(figure):
    """Return the steps at which the figure has a vertical line."""
    return sorted(s.x0 for s in figure.layout.shapes if s.type == "line" and s.x0 == s.x1)


def test_the_overview_stacks_loss_score_and_the_strongest_heads():
    losses, heads = fake.token_loss(), fake.head_scores()
    figure = losses_and_heads(losses, Heads(heads))
    drawn = {trace.name: trace for trace in figure.data}
    np.testing.assert_array_equal(drawn["mean loss"].y, losses["mean"].values)
    np.testing.assert_array_equal(drawn["in-context score"].y, losses["in_context_score"].values)
    strongest = heads["induction"].values.max(axis=(1, 2))
    np.testing.assert_array_equal(drawn["induction"].y, strongest)
    assert [trace.yaxis for trace in figure.data] == ["y", "y2", "y3", "y3"]


def test_the_overview_marks_the_move_of_the_score_and_the_first_head():
    figure = losses_and_heads(fake.token_loss(), Heads(fake.head_scores()))
    # The score falls as a sigmoid at 925 of width 25: 10 and 90% lie 2.2 widths (55 steps) away. A
    # head passes 0.3 at 0.05 + 0.9 s(x) with s(x) = 0.28, x = 0.95 widths of 25 steps before 900:
    # first saved at 900.
    (band,) = [shape for shape in figure.layout.shapes if shape.type == "rect"]
    assert (band.x0, band.x1) == pytest.approx((870, 980), abs=5)
    assert verticals(figure) == [900]
    wanted = f"largest transition of the in-context score: {band.x0:,} to {band.x1:,}"
    assert wanted in texts(figure)
    assert "first head 0.3 above its null: step 900" in texts(figure)


def test_the_overview_does_without_head_scores():
    figure = losses_and_heads(fake.token_loss(), None)
    assert [trace.name for trace in figure.data] == ["mean loss", "in-context score"]


def test_progress_marks_the_step_from_which_on_each_loss_stays_low():
    group = fake.modular_addition()
    figure = progress(group)
    for trace in figure.data:
        np.testing.assert_array_equal(trace.y, group[trace.name.replace(" ", "_")].values)
    steps = group["step"].values
    wanted = [
        int(steps[np.flatnonzero(group[name].values < 0.1)[0]])
        for name in ("train_loss", "restricted_loss", "test_loss")
    ]
    assert wanted == [140, 420, 740]
    assert verticals(figure) == wanted
    assert "generalised: test loss at step 740" in texts(figure)
    assert figure.layout.yaxis.type == "log"


def test_progress_marks_only_what_happened():
    group = fake.modular_addition().isel(step=slice(0, 30))  # up to step 580
    figure = progress(group)
    assert verticals(figure) == [140, 420]
    assert not any("generalised" in text for text in texts(figure))


def test_frequencies_point_at_the_keys():
    figure = frequencies(fake.modular_addition()["embedding_norm"], [3, 14])
    assert [a.y for a in figure.layout.annotations] == [3, 14]


def test_profiles_are_whole_rows_of_the_store_at_their_tokens():
    by_position = fake.token_loss()["mean_by_position"]
    figure = loss_profiles(by_position, (10, 60))
    assert len(figure.data) <= 7
    for trace in figure.data:
        step = int(trace.name.removeprefix("step ").replace(",", ""))
        np.testing.assert_array_equal(trace.y, by_position.sel(step=step).values)
        assert list(trace.x) == list(range(1, 64))
    assert {"token 10", "token 60"} <= set(texts(figure))


def test_loss_by_position_shows_tokens_not_positions():
    by_position = fake.token_loss(length=600)["mean_by_position"]
    (trace,) = loss_by_position(by_position).data
    assert len(trace.y) <= 128
    assert (trace.y[0], trace.y[-1]) == (1, 599)
    row = list(trace.y).index(2)
    np.testing.assert_allclose(trace.z[row], by_position.sel(position=1).values, rtol=1e-6)
