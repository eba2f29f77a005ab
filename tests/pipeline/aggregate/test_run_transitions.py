"""The table of all transitions of a run."""

import numpy as np
import pytest
import xarray as xr

from pipeline.aggregate.run_transitions import COLUMNS, transitions_of
from pipeline.aggregate.transitions import find_transitions

STEPS = np.unique(np.geomspace(1, 100_000, 120).round().astype(int))


@pytest.fixture
def run() -> xr.DataTree:
    """A run of which one head rises at step 1,000, and the mean loss falls there."""
    rng = np.random.default_rng(0)
    risen = 1 / (1 + (1000 / STEPS) ** 8)
    scores = np.abs(rng.normal(0.02, 0.01, (len(STEPS), 2, 3)))
    scores[:, 1, 2] += 0.8 * risen
    nulls = np.full((len(STEPS), 2, 3), 0.05)
    at = {"step": STEPS, "tokens_seen": ("step", STEPS * 2048.0)}
    heads = xr.Dataset(
        {
            "induction": (("step", "layer", "head"), scores),
            "induction_null": (("step", "layer", "head"), nulls),
        },
        coords={**at, "layer": [0, 1], "head": [0, 1, 2]},
    )
    mean = 4 - risen + rng.normal(0, 0.02, len(STEPS))
    losses = xr.Dataset(
        {"mean": ("step", mean), "loss": (("step", "position"), mean[:, None] + np.zeros(4))},
        coords=at,
    )
    return xr.DataTree.from_dict({"head_scores": heads, "token_loss": losses})


def test_labels_are_no_series(run):
    labels = run["head_scores"].to_dataset()[["induction"]] > 0.3
    table = transitions_of(run.assign({"head_labels": xr.DataTree(labels * 1.0)}))
    assert set(table["group"].values) == {"head_scores", "token_loss"}
    assert table.attrs["left_out"] == ["token_loss/loss", "head_labels/induction"]


def test_every_series_has_a_row_and_what_is_no_series_is_named(run):
    table = transitions_of(run)
    assert table.sizes["series"] == 2 * 3 + 1
    assert table.attrs["left_out"] == ["token_loss/loss"]
    assert set(table.data_vars) == set(COLUMNS)
    assert all(of.attrs["definition"] for of in table.data_vars.values())


def test_a_row_is_what_the_series_alone_gives(run):
    table = transitions_of(run)
    for i in range(table.sizes["series"]):
        row = table.isel(series=i)
        series = run[str(row["group"].item())][str(row["variable"].item())]
        if int(row["layer"]) >= 0:
            series = series.sel(layer=int(row["layer"]), head=int(row["head"]))
        expected = find_transitions(STEPS, series.values)
        found = row["midpoint"].dropna("transition").values
        assert found == pytest.approx([one.midpoint for one in expected], rel=1e-9)


def test_the_head_that_rose_exceeds_its_null_afterwards(run):
    table = transitions_of(run)
    mine = (table["layer"] == 1) & (table["head"] == 2)
    row = table.isel(series=int(np.flatnonzero(mine.values)[0]))
    assert row["shape"] == "sudden"
    after = run["head_scores"]["induction"][:, 1, 2].values[float(row["end"][0]) <= STEPS]
    assert float(row["excess_after"][0]) == pytest.approx(np.median(after) - 0.05)
    assert float(row["midpoint_tokens"][0]) == pytest.approx(2048 * float(row["midpoint"][0]))
    assert float(row["width_tokens"][0]) == pytest.approx(
        2048 * float(row["end"][0] - row["onset"][0])
    )


def test_unknown_tokens_stay_unknown(run):
    bare = xr.DataTree.from_dict(
        {name: node.to_dataset().drop_vars("tokens_seen") for name, node in run.children.items()}
    )
    table = transitions_of(bare)
    assert table["midpoint"].notnull().any() and not table["midpoint_tokens"].notnull().any()
