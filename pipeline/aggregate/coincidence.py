"""Coincidence of transitions: lags with intervals, and the overlap of rates of change.

Two transitions are together where both hold:

- the 90% interval of the lag between their midpoints lies within 0.1 decades of 0, which is two
  one-sided tests of equivalence at 5% (Schuirmann 1987);
- their rates of change, |d y / d log10 step|, overlap more than those of one series and the other
  shifted along the axis: p at most 5%, adjusted for all pairs by Benjamini and Hochberg.

They are not together where the interval of the lag lies beyond 0.1 decades altogether. Else nothing
can be told. `pipeline.aggregate.lag` has the interval of a lag.
"""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import xarray as xr
from jaxtyping import Float

from pipeline.aggregate.lag import Place, lag_between
from pipeline.aggregate.multiple_tests import adjusted
from pipeline.aggregate.rates import overlap_nulls, rate_of_change, shared_axis
from pipeline.aggregate.transitions import Scanned, scan_series
from pipeline.aggregate.variables import variable

NEAR = 0.1  # decades of lag, up to which transitions are together
LEVEL = 0.05  # of the adjusted p-values
TOGETHER, APART, UNKNOWN = "together", "not together", "cannot tell"
# Of pairs whose transitions are at independent places, the shares with a p-value of at most 5%
# under each null, and of the verdict "together": printed by tests/benchmarks/together.py
# --draws 600 --seed 5.
FALSE_ALARMS = {"p_shift": 0.06, "p_phase": 0.05, "together": 0.02}


def coincidences(
    series: Mapping[str, xr.DataArray],
    places: Mapping[str, Place] | None = None,
    scanned: Mapping[str, Scanned] | None = None,
    *,
    draws: int = 999,
    seed: int = 0,
) -> xr.Dataset:
    """Return what is known of each pair of named series (dims: pair).

    series: each over "step". places: events that are no series, such as a corner in loss space:
    they have lags only. scanned: the transitions of some series, if they are known already, with
    wider intervals, say. Each series stands for its largest transition. Coordinates `first` and
    `second`. Attributes: left_out, the series without a transition, by their shape; places,
    of all others; level and near, the limits of the verdict;
    false_alarm_shares, see `FALSE_ALARMS`.
    """
    known = scanned or {}
    found = {
        name: known[name] if name in known else scan_series(one) for name, one in series.items()
    }
    events = {n: Place.of(t) for n, one in found.items() if (t := one.largest)}
    events |= dict(places or {})
    pairs = list(combinations(events, 2))
    rng = np.random.default_rng(seed)
    lags = np.array([_lags(events[a], events[b]) for a, b in pairs]).reshape(-1, 6)
    overlaps = np.array(
        [
            _overlap(series[a], series[b], draws, rng)
            if a in series and b in series
            else (np.nan,) * 3
            for a, b in pairs
        ]
    ).reshape(-1, 3)
    q = adjusted(overlaps[:, 1])
    verdicts = [_verdict(low, high, p) for (low, high), p in zip(lags[:, 1:3], q, strict=True)]
    return xr.Dataset(
        _variables(lags, overlaps, q, verdicts),
        coords={
            "first": ("pair", np.array([a for a, _ in pairs], dtype=object)),
            "second": ("pair", np.array([b for _, b in pairs], dtype=object)),
        },
        attrs={
            "left_out": {n: one.shape for n, one in found.items() if one.largest is None},
            "places": events,
            "false_alarm_shares": FALSE_ALARMS,
            "level": LEVEL,
            "near": NEAR,
            "draws": draws,
            "seed": seed,
        },
    )


def _lags(first: Place, second: Place) -> tuple[float, ...]:
    """Return the lag with its interval, in decades and then in steps."""
    return (
        *lag_between(first.in_decades(), second.in_decades()),
        *lag_between(first, second),
    )


def _overlap(
    first: xr.DataArray, second: xr.DataArray, draws: int, rng: np.random.Generator
) -> tuple[float, float, float]:
    x = shared_axis(first["step"].values, second["step"].values)
    rate, other = (rate_of_change(one["step"].values, one.values, x) for one in (first, second))
    return overlap_nulls(rate, other, draws, rng)


def _verdict(low: float, high: float, p: float) -> str:
    if low > NEAR or high < -NEAR:
        return APART
    return TOGETHER if low >= -NEAR and high <= NEAR and p <= LEVEL else UNKNOWN


def _variables(
    lags: Float[np.ndarray, "pair 6"],
    overlaps: Float[np.ndarray, "pair 3"],
    q: Float[np.ndarray, " pair"],
    verdicts: list[str],
) -> dict[str, xr.Variable]:
    about = {}
    for i, (name, unit) in enumerate((("lag", "decades"), ("lag_steps", "steps"))):
        text = f"of the second midpoint behind the first, in {unit}"
        for j, (end, which) in enumerate((("", "Lag"), ("_low", "Lower end of the 90% interval of "
              "the lag"), ("_high", "Upper end of the 90% interval of the lag"))):  # fmt: skip
            about[name + end] = (lags[:, 3 * i + j], unit, f"{which} {text}.")
    about |= {
        "overlap": (overlaps[:, 0], "1", "Area under both rates of change, each of area 1."),
        "p_shift": (overlaps[:, 1], "1",
                    "Share of circular shifts of the second with at least this overlap."),
        "p_phase": (overlaps[:, 2], "1",
                    "Share of phase-randomised second series with at least this overlap."),
        "q": (q, "1", "p_shift adjusted for all pairs by Benjamini and Hochberg."),
        "verdict": (np.array(verdicts, dtype=object), "",
                    "together, not together or cannot tell."),
    }  # fmt: skip
    return {name: variable("pair", *of) for name, of in about.items()}
