"""Several runs side by side: their changes, differences, ranges, and mosaics."""

import numpy as np
import pytest

from pipeline.aggregate.lag import Place, lag_between
from pipeline.query import side_by_side
from pipeline.query.aggregates import transitions
from pipeline.report.site.run_data import Run, opened
from pipeline.report.site.several import events as events_of_sets
from pipeline.report.site.several import mosaics
from pipeline.report.site.several import sets as sets_module
from pipeline.report.site.several.curves import curves
from pipeline.report.site.several.page import index_page
from pipeline.report.site.several.sets import sets_in
from pipeline.store.store_names import store_names
from tests.flows.planted_store import Planted
from tests.pipeline.report import fake
from tests.pipeline.report.site import pages, stores

MIDDLES = {"a": 500, "b": 1000, "c": 2000}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Run]:
    """Return runs that change at three known steps."""
    folder = tmp_path_factory.mktemp("runs")
    uris = [Planted(middle, seed=middle).write(folder / f"{name}.zarr")
            for name, middle in MIDDLES.items()]  # fmt: skip
    return opened(store_names(uris))


@pytest.fixture(scope="module")
def grokking(tmp_path_factory) -> list[Run]:
    """Return runs whose test loss falls below 0.1, one checkpoint later, and never."""
    folder, uris = tmp_path_factory.mktemp("grokking"), []
    for i in range(3):
        made = fake.modular_addition()
        if i:
            test = made["test_loss"].values
            late = np.concatenate([test[:1], test[:-1]]) if i == 1 else np.full_like(test, 4.0)
            made["test_loss"] = made["test_loss"].copy(data=late)
        steps = made["step"].values
        uris.append(stores.stored(str(folder / f"seed{i}.zarr"), steps, modular_addition=made))
    return opened(store_names(uris))


def given(monkeypatch, settings: list[dict]) -> None:
    """Let the settings in which the runs differ be these."""
    for module in (sets_module, side_by_side):
        monkeypatch.setattr(module, "settings_that_differ", lambda _: settings)


def events(runs: list[Run]) -> list:
    made = side_by_side.events_of_runs([run.uri for run in runs])
    sections = events_of_sets.event_sections(sets_in(runs), made)
    return [item for section in sections for item in section.items]


def test_a_row_of_the_figure_is_the_stored_change_of_its_run(runs):
    figure = events(runs)[0]
    names = [row["name"] for row in figure.spec["rows"]]
    assert names[:3] == [f"mean loss falls · {run}" for run in "abc"]
    assert [n for n in names if n.startswith("first")] == [
        f"first induction head · {run}" for run in "abc"]  # fmt: skip
    for key, column in (("values", "midpoint"), ("low", "midpoint_low"), ("high", "midpoint_high")):
        drawn = dict(zip(names, pages.numbers(figure.spec["series"][0][key]), strict=True))
        for run in runs:
            found = transitions(run.uri)
            at = np.flatnonzero(found["variable"].values == "mean")[0]
            assert drawn[f"mean loss falls · {run.name}"] == float(found[column][at, 0])
    middles = dict(zip(names, pages.numbers(figure.spec["series"][0]["values"]), strict=True))
    for run, middle in MIDDLES.items():
        assert middles[f"first induction head · {run}"] == pytest.approx(middle, rel=0.1)


def test_losses_and_first_heads_come_first():
    order = ["mean loss falls", "in-context score rises", "train loss falls",
             "first induction head", "first previous token head"]  # fmt: skip
    of = [("token_loss", "mean", "fall"), ("token_loss", "in_context_score", "rise"),
          ("modular_addition", "train_loss", "fall"), ("head_scores", "induction", "first head"),
          ("head_scores", "previous_token", "first head")]  # fmt: skip
    assert [events_of_sets.event_in_words(g, v, -1, c) for g, v, c in of] == order
    words = events_of_sets.event_in_words
    assert words("weight_norm", "sum_of_squares", -1, "rise") == "weight norm: sum of squares rises"
    assert words("head_scores.text", "induction", -1, "fall") == (
        "any head's induction (text) score falls")  # fmt: skip


def test_changes_of_one_run_are_counted_and_not_drawn(runs, tmp_path):
    alone = stores.stored(str(tmp_path / "d.zarr"), weight_norm=fake.weight_norm())
    every = [*runs[:2], *opened({"d": alone})]
    found = transitions(alone)["shape"].values.tolist()
    figure, table = events(every)
    assert not any("weight norm" in row["name"] for row in figure.spec["rows"])
    assert not any("weight norm" in str(row[0].text) for row in table.rows)
    assert ("On the page of its own run" in figure.note) == ("sudden" in found)


def test_the_spread_is_that_of_the_steps_by_hand(runs):
    _, table = events(runs)
    ids = [column.id for column in table.columns]
    row = dict(zip(ids, table.rows[0], strict=True))
    middles = []
    for run in runs:
        found = transitions(run.uri)
        middles.append(float(found["midpoint"][found["variable"].values == "mean", 0].item()))
    assert row["event"].text == "mean loss falls" and row["having"].text == "3 of 3"
    assert row["median"].value == sorted(middles)[1]
    assert (row["first"].value, row["last"].value) == (min(middles), max(middles))
    assert row["deviation"].value == pytest.approx(np.std(np.log10(middles), ddof=1))


def test_two_runs_are_compared_in_decades_with_an_interval(runs):
    table, figure = events(runs[:2])
    names = [row["name"] for row in figure.spec["rows"]]
    numbers = [pages.numbers(figure.spec["series"][0][key]) for key in ("values", "low", "high")]
    first, second = (
        Place(*(one[names.index(f"mean loss falls · {run}")] for one in numbers)) for run in "ab"
    )
    expected = lag_between(first.in_decades(), second.in_decades())
    row = dict(zip([column.id for column in table.columns], table.rows[0], strict=True))
    assert row["lag"].value == pytest.approx(expected.apart)
    assert row["interval"].value == pytest.approx(expected.low)
    # Twice the step is 0.30 decades later.
    assert expected.low < np.log10(2) < expected.high
    assert row["steps"].value == pytest.approx(second.step - first.step)


def test_sets_are_named_by_the_setting_and_coloured_by_set(runs, monkeypatch):
    keys = ("smeared_keys", "seed")
    given(monkeypatch, [dict(zip(keys, of, strict=True)) for of in
                        [(True, 0), (False, 0), (False, 1)]])  # fmt: skip
    sets = sets_in(runs)
    assert sets.of == {"a": "with smeared keys", "b": "without smeared keys",
                       "c": "without smeared keys"}  # fmt: skip
    assert sets.roles["b"] == sets.roles["c"] != sets.roles["a"]
    figure, table = events(runs)
    roles = {row["name"]: row["role"] for row in figure.spec["rows"]}
    assert roles["mean loss falls · b"] == sets.roles["b"] != roles["mean loss falls · a"]
    assert {row[1].text for row in table.rows} == {"with smeared keys", "without smeared keys"}


def test_the_range_over_seeds_is_that_of_the_runs(runs, monkeypatch):
    given(monkeypatch, [{"seed": i} for i in range(3)])
    by_id = {figure.id: figure for figure in curves(sets_in(runs))}
    spec = by_id["runs-token_loss-mean"].spec
    every = np.stack([run.tree["token_loss"]["mean"].values for run in runs])
    for one, values in zip(spec["series"][:3], every, strict=True):
        assert np.array_equal(pages.numbers(one["values"]), values)
    ranged = spec["series"][3]
    assert ranged["name"] == "median"
    assert np.array_equal(pages.numbers(ranged["low"]), every.min(0))
    assert np.array_equal(pages.numbers(ranged["high"]), every.max(0))
    assert np.array_equal(pages.numbers(ranged["values"]), np.sort(every, 0)[1])
    # The range has its place on every axis that the figure offers.
    assert [axis["name"] for axis in spec["axes"]] == ["steps", "tokens"]
    steps = runs[0].tree["token_loss"]["step"].values
    for axis, factor in zip(spec["axes"], (1, 100), strict=True):
        assert len(axis["values"]) == len(spec["series"])
        assert all(np.array_equal(pages.numbers(one), steps * factor) for one in axis["values"])


def test_runs_are_aligned_on_their_onset_with_the_range_by_interpolation(runs):
    by_id = {figure.id: figure for figure in curves(sets_in(runs))}
    spec = by_id["runs-induction-onset"].spec
    xs = [pages.numbers(one) for one in spec["x"]["values"]]
    best = [run.tree["head_scores"]["induction"].max(["layer", "head"]) for run in runs]
    for x, one in zip(xs[:3], best, strict=True):
        assert 0 in x.tolist()
        onset = one["step"].values[x.tolist().index(0)]
        assert np.array_equal(x, one["step"].values - onset)
        assert one.sel(step=onset) >= 0.05 + 0.3  # the null and the rule
    ranged, grid = spec["series"][3], xs[3]
    at = grid.tolist().index(0)
    values = [float(one.values[x.tolist().index(0)]) for x, one in zip(xs[:3], best, strict=True)]
    assert pages.numbers(ranged["low"])[at] == pytest.approx(min(values))
    assert pages.numbers(ranged["values"])[at] == pytest.approx(sorted(values)[1])
    # Only where all have numbers.
    assert grid.min() == max(x.min() for x in xs[:3])
    assert grid.max() == min(x.max() for x in xs[:3])


def test_grokking_is_aligned_on_generalisation_and_names_the_runs_without(grokking):
    by_id = {figure.id: figure for figure in curves(sets_in(grokking[1:]))}
    figure = by_id["runs-modular_addition-train_loss"]
    axis = {one["name"]: one for one in figure.spec["axes"]}["onset"]
    late, never = (pages.numbers(one) for one in axis["values"])
    steps = np.array(grokking[1].steps)
    below = steps[grokking[1].tree["modular_addition"]["test_loss"].values < 0.1]
    assert np.array_equal(below, steps[steps >= below[0]])  # it stays below
    assert np.array_equal(late, steps - below[0])
    assert np.isnan(never).all()
    assert "Without an onset, and not on its axis: 1 run." in figure.note
    low, high = figure.spec["y"]["domain"]
    drawn = np.concatenate([pages.numbers(one["values"]) for one in figure.spec["series"]])
    assert figure.spec["y"]["scale"] == "log" and 0 < low < drawn.min() and drawn.max() < high


def test_the_mosaics_of_runs_share_a_slider_and_link_into_each(runs, monkeypatch):
    section = mosaics.mosaics_section(runs)
    for figure, run in zip(section.items, runs, strict=True):
        assert figure.spec["group"] == "runs"
        assert figure.spec["hrefs"] == [f"{run.slug}/head-L0H{head}.html" for head in range(2)]
        stored = run.tree["head_scores"]["induction"].values
        drawn = pages.numbers(figure.spec["frames"]["scores"][0]["values"])
        assert np.array_equal(drawn, stored)
    monkeypatch.setattr(mosaics, "MOST_RUNS", 2)
    fewer = mosaics.mosaics_section(runs)
    assert len(fewer.items) == 2 and "2 of 3 runs are shown" in fewer.note
    assert mosaics.mosaics_section(runs[:1]) is None


def test_the_table_of_runs_has_the_settings_that_differ(runs, monkeypatch):
    given(monkeypatch, [{"smeared_keys": i == 0, "seed": 7} for i in range(3)])
    table = index_page(runs).sections[0].items[0]
    assert [column.title for column in table.columns][2:4] == ["smeared keys", "seed"]
    assert [row[2].text for row in table.rows] == ["True", "False", "False"]
