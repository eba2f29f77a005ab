"""Vestigial heads and frequencies: series that rose, and then fell beyond their noise.

Of a series, over its null where one is stored, with running medians of 5 checkpoints (3 of fewer
than 30): the peak is the highest; the rise is the peak minus the lowest before it; the fall is the
peak minus the last one. Levels below a stored null count as that null, so that
a head rises only above it. A series is **vestigial** where

- the fall is at least a quarter of the rise, and the rise at least a quarter of the range;
- neither is noise. Of series that never fall (the isotonic regression of the series, with its own
  residuals in moving blocks), a share p_fall has such a fall; of series that never rise (the
  antitonic one), a share p_rise has such a rise. The larger one, adjusted for all series by
  Benjamini and Hochberg, is at most 3%.

Random walks rise and fall by themselves: tests/benchmarks/together.py prints how often they, and
series that only rise, only fall or do neither, are said to be vestigial.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float, Integer
from scipy.ndimage import median_filter
from scipy.optimize import isotonic_regression

from pipeline.aggregate.head_layers import in_layers_with_heads, is_of_heads
from pipeline.aggregate.multiple_tests import adjusted
from pipeline.aggregate.null_series import Described, describe, resampled
from pipeline.aggregate.series import is_label
from pipeline.aggregate.variables import variable
from pipeline.measures.head_patterns import NULLS, has_pattern

# Of the adjusted p-values: at 3%, fewer than 5% of series that are none are called vestigial.
LEVEL = 0.03
LEAST = 0.25  # of the rise, and of the range
FEWEST = 20  # checkpoints, without which noise cannot be told from a rise
_MANY, _WIDE, _SHORT = 30, 5, 3  # checkpoints; and those of the running median
_ENTRIES = ("layer", "head", "frequency")


class Peak(NamedTuple):
    """The peak of a series, at an index of its steps, with rise and fall."""

    place: int
    peak: float
    rise: float
    fall: float


class _Entry(NamedTuple):
    group: str
    variable: str
    layer: int
    head: int
    frequency: int
    steps: Integer[np.ndarray, " step"]
    values: Float[np.ndarray, " step"]
    has_null: bool


def vestigial(run: xr.DataTree, *, draws: int = 999, seed: int = 0) -> xr.Dataset:
    """Return which series of heads and frequencies rose and then fell (dims: series).

    Series are all floats over step with a head or a frequency. Coordinates: group, variable, layer,
    head and frequency (-1 where there is none). Those of fewer than 20 checkpoints, or with values
    that are not finite, are NaN. Attributes: left_out, how many those are.
    """
    entries = list(_entries(run))
    rng = np.random.default_rng(seed)
    found = np.full((len(entries), 7), np.nan)
    for places in _alike(entries):
        steps = entries[places[0]].steps
        parts = describe(steps, np.stack([entries[i].values for i in places]))
        for i, one in zip(places, parts, strict=True):
            found[i] = _row(steps, one, entries[i].has_null, draws, rng)
    has_null = np.array([one.has_null for one in entries], dtype=bool)
    table = _table(found, np.where(has_null, has_pattern(found[:, 1]), np.nan))
    labels = {name: [getattr(one, name) for one in entries] for name in _Entry._fields[:5]}
    return xr.Dataset(
        table,
        {
            name: ("series", np.array(of, dtype=object if name in ("group", "variable") else int))
            for name, of in labels.items()
        },
        {"left_out": int(np.isnan(found[:, 0]).sum()), "level": LEVEL, "least": LEAST,
         "draws": draws, "seed": seed},
    )  # fmt: skip


def peak_of(values: Float[np.ndarray, "*draw step"], floor: float = -np.inf) -> list[Peak]:
    """Return the peaks of series; see the module. floor: levels below count as this."""
    rows = np.atleast_2d(values)
    window = _WIDE if rows.shape[1] >= _MANY else _SHORT
    half = window // 2
    smooth = np.maximum(median_filter(rows, size=(1, window))[:, half:-half], floor)
    places, last = smooth.argmax(axis=1), smooth[:, -1]
    before = np.minimum.accumulate(smooth, axis=1)
    at = np.arange(len(rows))
    top = smooth[at, places]
    return [
        Peak(int(p), float(t), float(t - b), float(t - e))
        for p, t, b, e in zip(places + half, top, before[at, places], last, strict=True)
    ]


def _row(
    steps: Integer[np.ndarray, " step"],
    about: Described,
    has_null: bool,
    draws: int,
    rng: np.random.Generator,
) -> tuple[float, ...]:
    """Return step of the peak, its value, rise, fall, share fallen, p_rise and p_fall."""
    floor = 0.0 if has_null else -np.inf
    (found,) = peak_of(about.values, floor)
    share = found.fall / found.rise if found.rise > 0 else 0.0
    p_rise = p_fall = 1.0  # what is too small is not tested
    if share >= LEAST and found.rise >= LEAST * np.ptp(about.values):
        noise = resampled(about.residuals, draws, rng)
        rising = isotonic_regression(about.values).x
        falling = isotonic_regression(about.values, increasing=False).x
        falls = np.array([one.fall for one in peak_of(rising + noise, floor)])
        rises = np.array([one.rise for one in peak_of(falling + noise, floor)])
        p_fall = float((1 + (falls >= found.fall).sum()) / (1 + draws))
        p_rise = float((1 + (rises >= found.rise).sum()) / (1 + draws))
    return float(steps[found.place]), found.peak, found.rise, found.fall, share, p_rise, p_fall


def _entries(run: xr.DataTree) -> Iterator[_Entry]:
    """Yield every series of a head or a frequency, as the excess over its null where it has one."""
    for group, node in run.children.items():
        if is_label(group):
            continue
        dataset = node.to_dataset().sortby("step")
        for name, values in dataset.data_vars.items():
            variable_name, others = str(name), set(values.dims) - {"step"}
            if variable_name in NULLS.values() or not _has_entries(values):
                continue
            if is_of_heads(values):
                values = in_layers_with_heads(values, dataset)
            null = dataset.get(NULLS.get(variable_name, ""))
            series = values if null is None else values - null
            dims = [dim for dim in _ENTRIES if dim in others]
            table = series.transpose(*dims, "step")
            labels = [table[dim].values for dim in dims]
            for place in np.ndindex(table.shape[:-1]):
                at = dict.fromkeys(_ENTRIES, -1)
                at |= {dim: int(labels[i][place[i]]) for i, dim in enumerate(dims)}
                yield _Entry(
                    str(group), variable_name, at["layer"], at["head"], at["frequency"],
                    table["step"].values, table.values[place].astype(np.float64), null is not None,
                )  # fmt: skip


def _has_entries(values: xr.DataArray) -> bool:
    others = set(values.dims) - {"step"}
    single = "head" in others or "frequency" in others
    floats = np.dtype(values.dtype).kind == "f"
    return "step" in values.dims and single and others <= set(_ENTRIES) and floats


def _alike(entries: Sequence[_Entry]) -> list[list[int]]:
    """Return the places of series over the same steps that can be judged."""
    found: dict[bytes, list[int]] = {}
    for i, one in enumerate(entries):
        if len(one.steps) >= FEWEST and np.isfinite(one.values).all():
            found.setdefault(one.steps.tobytes(), []).append(i)
    return list(found.values())


def _table(
    found: Float[np.ndarray, "series 7"], formed: Float[np.ndarray, " series"]
) -> dict[str, xr.Variable]:
    # np.fmax: the larger one; NaN only where both are.
    q = adjusted(np.fmax(found[:, 5], found[:, 6]))
    flags = np.where(np.isnan(q), np.nan, q <= LEVEL)
    names = (
        ("peak_step", "steps", "Step of the highest running median."),
        ("peak", "unit of the series", "Highest running median, over its null if it has one."),
        ("rise", "unit of the series", "Peak minus the lowest running median before it."),
        ("fall", "unit of the series", "Peak minus the last running median."),
        ("fallen_share", "1", "Fall over rise."),
        ("p_rise", "1", "Share of series that never rise with at least this rise."),
        ("p_fall", "1", "Share of series that never fall with at least this fall."),
    )
    table = {
        name: variable("series", found[:, i], unit, text)
        for i, (name, unit, text) in enumerate(names)
    }
    return table | {
        "q": variable("series", q, "1", "The larger p-value, adjusted for all series."),
        "vestigial": variable("series", flags, "1", "1 where a series rose and fell, 0 where not."),
        "formed": variable("series", formed, "1", "1 where the peak's excess over the null reaches "
                           "the threshold of a pattern, 0 where not; NaN without a null."),
    }  # fmt: skip
