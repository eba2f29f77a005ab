"""Figures hold the numbers of the store, at their steps."""

from itertools import pairwise

import numpy as np
import pytest
import xarray as xr

from pipeline.report.drawing import Scale, _spread, log_ticks, scale_of
from pipeline.report.figures import MOST_PARAMETERS, heat_map, lines, parameter_lines
from pipeline.report.heads import head_lines, mosaic, score_range
from tests.pipeline.report import fake


def texts(figure):
    return [annotation.text for annotation in figure.layout.annotations]


def trajectories(figure):
    """Return the drawn line of each head, by (layer, head), split at the gaps."""
    found = {}
    for trace in figure.data:
        if trace.customdata is None:
            continue
        layer = int(trace.name.removeprefix("layer "))
        for head in np.unique(trace.customdata):
            y = np.asarray(trace.y)[trace.customdata == head]
            assert np.isnan(y[-1])
            found[layer, int(head)] = y[:-1]
    return found


def test_a_line_carries_the_series_at_its_steps():
    loss = fake.token_loss()["mean"]
    (trace,) = lines({"mean": loss}, "loss (nats)").data
    np.testing.assert_array_equal(trace.y, loss.values)
    assert list(trace.x) == loss["step"].values.tolist()


def test_several_lines_are_named_at_their_ends_and_one_is_not():
    group = fake.modular_addition()
    two = {"train": group["train_loss"], "test": group["test_loss"]}
    assert texts(lines(two, "loss (nats)", log=True)) == ["train", "test"]
    assert texts(lines({"train": group["train_loss"]}, "loss (nats)")) == []


def test_every_head_has_its_trajectory():
    scores = fake.head_scores(layers=3, heads=5)["induction"]
    drawn = trajectories(head_lines(scores, "induction"))
    assert drawn.keys() == {(layer, head) for layer in range(3) for head in range(5)}
    for (layer, head), y in drawn.items():
        np.testing.assert_array_equal(y, scores.sel(layer=layer, head=head).values)


def test_heads_that_end_high_are_drawn_again_and_named():
    scores = fake.head_scores(layers=3, heads=5)["induction"]
    figure = head_lines(scores, "induction")
    assert sorted(texts(figure)) == ["L2H1", "L2H3"]
    strong = {trace.name: trace for trace in figure.data if trace.customdata is None}
    np.testing.assert_array_equal(strong["L2H1"].y, scores.sel(layer=2, head=1).values)


@pytest.mark.parametrize(("layers", "in_legend"), [(6, True), (7, False)])
def test_many_layers_are_told_apart_by_a_colour_bar(layers, in_legend):
    figure = head_lines(fake.head_scores(layers=layers)["induction"], "induction")
    bars = [trace for trace in figure.data if trace.marker.showscale]
    assert len(bars) == (0 if in_legend else 1)
    assert all((trace.showlegend is not False) == in_legend for trace in figure.data[:layers])


def test_a_mosaic_has_a_frame_for_each_step_and_shows_the_last():
    scores = fake.head_scores(layers=3, heads=5)["previous_token"]
    figure = mosaic(scores)
    assert [int(frame.name) for frame in figure.frames] == scores["step"].values.tolist()
    for frame, values in zip(figure.frames, scores.values, strict=True):
        np.testing.assert_array_equal(frame.data[0].z, values)
    np.testing.assert_array_equal(figure.data[0].z, scores.values[-1])
    assert (figure.data[0].zmin, figure.data[0].zmax) == (0, 1)


def test_the_order_of_a_variables_dimensions_does_not_matter():
    scores = fake.head_scores(layers=3, heads=5)["induction"]
    turned = scores.transpose("head", "step", "layer")
    assert mosaic(turned).to_json() == mosaic(scores).to_json()
    assert head_lines(turned, "a").to_json() == head_lines(scores, "a").to_json()


@pytest.mark.parametrize(
    ("values", "limits"),
    [([0.1, 0.4], (0, 1)), ([-0.1, 0.4], (-1, 1)), ([3, 7], (0, 7)), ([-3, 2], (-3, 3)),
     ([np.nan, np.nan], (0, 1))],
)  # fmt: skip
def test_the_scale_of_a_score_is_that_of_its_kind(values, limits):
    assert score_range(xr.DataArray(np.array(values)))[:2] == limits


def test_a_heat_map_carries_the_values_transposed():
    norms = fake.modular_addition()["embedding_norm"]
    (trace,) = heat_map(norms, "frequency", "frequency k", "norm").data
    np.testing.assert_allclose(trace.z, norms.values.T, rtol=1e-6)
    assert list(trace.y) == norms["frequency"].values.tolist()


def test_the_largest_parameters_are_drawn_and_the_rest_counted():
    names = [f"layers.{i}.weight" for i in range(MOST_PARAMETERS + 5)]  # the earlier, the larger
    norms = fake.weight_norm(parameters=names)["by_parameter"]
    figure, note = parameter_lines(norms, "sum of squares")
    assert [trace.name for trace in reversed(figure.data)] == names[:MOST_PARAMETERS]
    np.testing.assert_array_equal(figure.data[-1].y, norms.values[:, 0])
    assert note == f"Drawn: the {MOST_PARAMETERS} of {len(names)} that end largest."
    assert "layers.0" in texts(figure)


def test_a_long_name_of_a_parameter_is_cut_between_its_parts():
    names = ["gpt_neox.layers.11.attention.dense.weight", "embed_in.weight"]
    figure, _ = parameter_lines(fake.weight_norm(parameters=names)["by_parameter"], "norm")
    assert texts(figure) == ["…11.attention.dense", "embed_in"]


def test_only_axes_of_steps_are_declared_as_such():
    scores = fake.head_scores()["induction"]
    assert head_lines(scores, "induction").layout.meta == {"step_axis": True}
    assert mosaic(scores).layout.meta is None


def test_names_at_line_ends_keep_apart_and_within_the_axis():
    places = _spread([0.5, 0.5, 0.99, 1.0, 0.0], 0.1, 0.0, 1.0)
    ordered = sorted(places)
    assert min(b - a for a, b in pairwise(ordered)) >= 0.1 - 1e-12
    assert ordered[0] >= 0
    assert ordered[-1] <= 1
    assert places[4] < min(places[:2])
    assert _spread([0.2] * 30, 0.1, 0.0, 1.0) == np.linspace(0, 1, 30).tolist()


def test_a_logarithmic_axis_has_decades_or_ones_twos_and_fives():
    wide, narrow = log_ticks(Scale(-6.2, 1.1, log=True)), log_ticks(Scale(0, 1.1, log=True))
    assert wide["tickvals"] == [10.0**power for power in range(-6, 2)]
    assert wide["ticktext"] == ["10⁻⁶", "10⁻⁵", "10⁻⁴", "0.001", "0.01", "0.1", "1", "10"]
    assert narrow["ticktext"] == ["1", "2", "5", "10"]


def test_a_scale_holds_all_that_can_be_drawn():
    nan, inf = np.nan, np.inf
    low, high, _ = scale_of([xr.DataArray([nan, 1.0, 3.0, inf])])
    assert low < 1 < 3 < high < 4
    low, high, _ = scale_of([xr.DataArray([0.0, -1.0, 0.01, 100.0])], log=True)
    assert low < -2 < 2 < high < 3
    assert scale_of([xr.DataArray([nan])])[:2] == (0, 1)
    assert scale_of([xr.DataArray([2.0])]).low < 2
