"""Transitions of several runs on one axis: how they are matched, placed and summarised."""

from typing import Any

import numpy as np
import pytest
import xarray as xr

from pipeline.aggregate.fitting import MOST
from pipeline.aggregate.side_by_side import side_by_side

NUMBERS = ("midpoint", "midpoint_low", "midpoint_high", "amplitude", "excess_after")
LOSS = ("token_loss", "mean", -1, -1)


def head(layer: int, number: int, variable: str = "induction") -> tuple[str, str, int, int]:
    return ("head_scores", variable, layer, number)


def change(midpoint: float, amplitude: float = 0.5, excess: float = np.nan) -> tuple[float, ...]:
    """Return a transition whose interval reaches from 0.9 to 1.1 times the midpoint."""
    return (midpoint, 0.9 * midpoint, 1.1 * midpoint, amplitude, excess)


def runs(**planted: dict[tuple[str, str, int, int], Any]) -> xr.Dataset:
    """Return transitions as stored_transitions does: by run, those of each series, or its shape."""
    rows = [(run, *series, of) for run, each in planted.items() for series, of in each.items()]
    numbers = np.full((len(NUMBERS), len(rows), MOST), np.nan)
    for i, row in enumerate(rows):
        if not isinstance(row[-1], str):
            numbers[:, i, : len(row[-1])] = np.array(row[-1]).T
    shapes = [row[-1] if isinstance(row[-1], str) else "sudden" for row in rows]
    names = ("run", "group", "variable", "layer", "head")
    return xr.Dataset(
        {name: (("series", "transition"), of) for name, of in zip(NUMBERS, numbers, strict=True)}
        | {"shape": ("series", np.array(shapes, dtype=object))},
        {name: ("series", [row[i] for row in rows]) for i, name in enumerate(names)},
    )


def event(made: xr.Dataset, variable: str, change: str) -> xr.Dataset:
    chosen = (made["variable"] == variable) & (made["change"] == change)
    (place,) = np.flatnonzero(chosen.values)
    found = made.isel(event=place)
    return found.squeeze("set") if made.sizes["set"] == 1 else found


def test_the_first_head_is_matched_by_role_and_only_above_its_null() -> None:
    found = runs(
        a={
            head(0, 0): [change(20, 0.9, 0.1)],  # large and early, but no higher than its null
            head(1, 0): [change(100, 0.4, 0.5)],
            head(1, 3): [change(200, 0.8, 0.9)],
        },
        b={head(0, 2): [change(400, 0.6, 0.3)], head(1, 0): [change(50, -0.5, 0.4)]},
    )
    first = event(side_by_side(found), "induction", "first head")
    assert first["midpoint"].values.tolist() == [100, 400]
    assert first["layer_of"].values.tolist() == [1, 0] and first["head_of"].values.tolist() == [
        0,
        2,
    ]
    assert (float(first["median"]), float(first["first"]), float(first["last"])) == (250, 100, 400)
    assert float(first["deviation"]) == pytest.approx(np.log10(4) / np.sqrt(2))
    assert float(first["uncertainty"]) == pytest.approx(np.log10(1.1 / 0.9))
    rise = event(side_by_side(found), "induction", "rise")
    assert rise["midpoint"].values.tolist() == [20, 400]  # of any head, the largest
    assert event(side_by_side(found, threshold=0.6), "induction", "first head")[
        "midpoint"
    ].values.tolist() == pytest.approx([200, np.nan], nan_ok=True)


def test_the_largest_rise_and_fall_are_two_events() -> None:
    found = runs(
        a={LOSS: [change(10, -3), change(20, 2), change(30, -4)]}, b={LOSS: [change(40, -1)]}
    )
    made = side_by_side(found)
    assert event(made, "mean", "fall")["midpoint"].values.tolist() == [30, 40]
    assert event(made, "mean", "fall")["amplitude"].values.tolist() == [-4, -1]
    assert event(made, "mean", "rise")["shape"].values.tolist() == ["sudden", "not sudden"]
    assert int(event(made, "mean", "rise")["having"]) == 1
    assert np.isnan(float(event(made, "mean", "rise")["deviation"]))  # of one run


def test_runs_without_an_event_are_told_apart() -> None:
    found = runs(
        a={LOSS: [change(10)]}, b={LOSS: "cannot tell"}, c={LOSS: "smooth"},
        d={head(0, 0): [change(5, 0.9)]},
    )  # fmt: skip
    rise = event(side_by_side(found), "mean", "rise")
    assert rise["shape"].values.tolist() == ["sudden", "cannot tell", "not sudden", "not stored"]
    assert (int(rise["stored"]), int(rise["having"])) == (3, 1)
    # A head that rises is not known to have the pattern where its null is not stored.
    first = event(side_by_side(found), "induction", "first head")
    assert first["shape"].values.tolist() == [*["not stored"] * 3, "cannot tell"]


def test_places_in_tokens_and_since_an_origin() -> None:
    found = runs(a={LOSS: [change(100)]}, b={LOSS: [change(100)]})
    tokens = {
        "a": xr.DataArray([0.0, 2000.0], {"step": [0, 200]}, ["step"]),  # 10 a step
        "b": xr.DataArray([0.0, 500.0], {"step": [0, 105]}, ["step"]),
    }
    rise = event(side_by_side(found, tokens), "mean", "rise")
    assert rise["place"].values.tolist() == pytest.approx([1000, 500 * 100 / 105])
    assert rise["place_low"].values.tolist() == pytest.approx([900, 500 * 90 / 105])
    assert np.isnan(rise["place_high"].values[1])  # beyond its last checkpoint
    rise = event(side_by_side(found, origins={"a": 50, "b": 200}), "mean", "rise")
    assert rise["place"].values.tolist() == [50, -100]
    assert rise["decades"].values.tolist() == pytest.approx([np.log10(2), -np.log10(2)])
    assert float(rise["lag"]) == pytest.approx(0)
    assert side_by_side(found, tokens).attrs["axis"] == "tokens"


def test_the_spread_is_over_the_runs_of_a_set() -> None:
    planted = {name: {LOSS: [change(at)]} for name, at in zip("abcd", (10, 30, 500, 700))}  # noqa: B905
    sets = {"a": "low", "b": "low", "c": "high", "d": "high"}
    rise = event(side_by_side(runs(**planted), sets=sets), "mean", "rise")
    assert rise["set"].values.tolist() == ["low", "high"]
    assert rise["median"].values.tolist() == [20, 600]
    wanted = [np.log10(3) / np.sqrt(2), np.log10(7 / 5) / np.sqrt(2)]
    assert rise["deviation"].values.tolist() == pytest.approx(wanted)


def test_variables_are_described() -> None:
    made = side_by_side(runs(a={LOSS: [change(10)]}))
    assert all(of.attrs["definition"].endswith(".") for of in made.data_vars.values())
    assert made["place"].attrs["units"] == "steps"
