"""Shares of series that change in a step, beside the same shares among null series of that run.

"All circuits form as phase transitions" is a statement about shares: of the series that change, how
many have a transition (see `pipeline.aggregate.transitions`) rather than a smooth curve? The rule
errs, and series that wander look sudden. So the same rule judges null series on the run's own
schedule: the best smooth curve of each series with its own resampled residuals; random walks; and,
for what is missed, the series that have a step, as described, with resampled residuals.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float, Integer
from scipy.ndimage import median_filter
from statsmodels.stats.proportion import proportion_confint

from pipeline.aggregate.null_series import describe, random_walks, resampled
from pipeline.aggregate.series import series_blocks
from pipeline.aggregate.transitions import FEWEST, Scanned, scan
from pipeline.aggregate.variables import variable
from pipeline.measures.head_patterns import THRESHOLD

ALL, WITH_PATTERN = "changing", "with a pattern"
SMOOTH, WALKS, RESAMPLED = "smooth nulls", "random walks", "steps resampled"
KINDS = ("series", SMOOTH, WALKS, RESAMPLED)
BEYOND_BOTH = "more often than smooth curves and random walks"
BEYOND_SMOOTH = "more often than smooth curves, not than random walks"
BEYOND_NONE = "cannot tell"
_LONGEST = 3  # checkpoints of the running median that must reach the threshold
_LEVEL = 0.95


class _Shapes(NamedTuple):
    """The shapes of some series."""

    found: list[Scanned]

    def count(self, shape: str) -> int:
        """Return how many have a shape."""
        return Counter(one.shape for one in self.found)[shape]


def step_shares(
    run: xr.DataTree,
    *,
    groups: Sequence[str] = ("head_scores",),
    threshold: float = THRESHOLD,
    nulls: int = 200,
    seed: int = 0,
) -> xr.Dataset:
    """Return shares of head series with a step (dims: which, kind).

    which: "changing", the series of all heads in these groups that change beyond their noise; "with
    a pattern", those of them whose excess over their null reaches the threshold at some time, where
    a null is stored. kind: the "series" themselves, or null series: "smooth nulls", "random walks",
    "steps resampled", `nulls` of each, made of series drawn at random. The share is
    sudden / (sudden + smooth), with a Wilson interval that takes series as independent, which those
    of one head are not; it lies between `lowest` and `highest` if the series that cannot be told
    were all smooth, or all sudden. NaN where there is no series. `widths` (width): of transitions.
    """
    rng = np.random.default_rng(seed)
    changing = list(_changing(run, groups, threshold))
    judged = {"series": [(one.found, one.own) for one in changing]}
    judged |= {kind: _null_series(changing, kind, nulls, rng) for kind in KINDS[1:]}
    rows = {
        which: {
            kind: [one for one, own in of if own or which == ALL] for kind, of in judged.items()
        }
        for which in (ALL, WITH_PATTERN)
    }
    widths = {
        which: [t.width for one in of["series"] for t in one.transitions]
        for which, of in rows.items()
    }
    most = max((len(one) for one in widths.values()), default=0)
    table = np.full((2, most), np.nan)
    for i, of in enumerate(widths.values()):
        table[i, : len(of)] = sorted(of)
    return xr.Dataset(
        _variables([[_Shapes(of[kind]) for kind in KINDS] for of in rows.values()])
        | {"widths": variable(("which", "width"), table, "decades",
                              "log10 of end over onset of the transitions, in order.")},
        {"which": [ALL, WITH_PATTERN], "kind": list(KINDS)},
        {"groups": list(groups), "threshold": threshold, "nulls": nulls, "seed": seed,
         "verdict": _verdict([_Shapes(rows[ALL][kind]) for kind in KINDS])},
    )  # fmt: skip


def wilson(count: int, of: int) -> tuple[float, float]:
    """Return the 95% interval of a share (Wilson 1927); NaN where there is nothing."""
    if not of:
        return np.nan, np.nan
    bounds: Any = proportion_confint(count, of, alpha=1 - _LEVEL, method="wilson")
    return float(bounds[0]), float(bounds[1])


class _Series(NamedTuple):
    """A finite series of a head that changes. own: whether it reaches a pattern at some time."""

    steps: Integer[np.ndarray, " step"]
    values: Float[np.ndarray, " step"]
    found: Scanned
    own: bool


def _changing(run: xr.DataTree, groups: Sequence[str], threshold: float) -> Iterator[_Series]:
    for block in series_blocks(run):
        if block.group not in groups or "head" not in block.values.dims:
            continue
        values = block.values.sortby("step")
        steps = values["step"].values
        flat = values.values.reshape(-1, len(steps)).astype(np.float64)
        reached = np.zeros(len(flat), dtype=bool)
        if block.excess is not None:
            excess = block.excess.sortby("step").values.reshape(flat.shape)
            steady = median_filter(excess, size=(1, _LONGEST), mode="nearest")
            reached = (steady >= threshold).any(axis=1)
        finite = np.isfinite(flat).all(axis=1)
        if len(steps) < FEWEST or not finite.any():
            continue
        for one, found, own in zip(
            flat[finite], scan(steps, flat[finite]), reached[finite], strict=True
        ):
            if found.shape != "none":
                yield _Series(steps, one, found, bool(own))


def _null_series(
    sources: Sequence[_Series], kind: str, count: int, rng: np.random.Generator
) -> list[tuple[Scanned, bool]]:
    """Return what `count` null series of a kind do, each with `own` of the series it is made of."""
    if kind == RESAMPLED:
        sources = [one for one in sources if one.found.shape == "sudden"]
    if not sources:
        return []
    chosen = [sources[i] for i in rng.integers(len(sources), size=count)]
    by_schedule: dict[bytes, list[_Series]] = {}
    for one in chosen:
        by_schedule.setdefault(one.steps.tobytes(), []).append(one)
    found = []
    for alike in by_schedule.values():
        steps = alike[0].steps
        if kind == WALKS:
            made = random_walks(steps, len(alike), rng)
        else:
            parts = describe(steps, np.stack([one.values for one in alike]))
            made = np.stack(
                [
                    (one.smooth if kind == SMOOTH else one.curve)
                    + resampled(one.residuals, 1, rng)[0]
                    for one in parts
                ]
            )
        owns = [one.own for one in alike]
        found += list(zip(scan(steps, made), owns, strict=True))
    return found


def _share(shapes: _Shapes) -> tuple[float, float, float]:
    """Return the share of steps among the series that are told, with its interval."""
    sudden, told = shapes.count("sudden"), shapes.count("sudden") + shapes.count("smooth")
    return (sudden / told if told else np.nan, *wilson(sudden, told))


def _verdict(kinds: Sequence[_Shapes]) -> str:
    """Return whether the series have steps more often than their nulls, by their intervals."""
    low = _share(kinds[0])[1]
    smooth, walks = (_share(kinds[i])[2] for i in (1, 2))
    if low > max(smooth, walks):
        return BEYOND_BOTH
    return BEYOND_SMOOTH if low > smooth else BEYOND_NONE


def _variables(table: list[list[_Shapes]]) -> dict[str, xr.Variable]:
    """Return the arrays of a table of shapes by which and kind."""

    def each(of: object) -> np.ndarray:
        assert callable(of)
        return np.array([[of(shapes) for shapes in row] for row in table])

    def bound(extra: str) -> np.ndarray:
        return each(
            lambda s: (
                (s.count("sudden") + (s.count("cannot tell") if extra == "high" else 0))
                / (len(s.found) - s.count("none") or np.nan)
            )
        )

    share = each(_share)
    dims = ("which", "kind")
    about = {
        "share": (share[..., 0], "Share of steps among the series that are told."),
        "low": (share[..., 1], "Lower end of its 95% Wilson interval."),
        "high": (share[..., 2], "Upper end of its 95% Wilson interval."),
        "lowest": (bound("low"), "Share if all that cannot be told were smooth."),
        "highest": (bound("high"), "Share if all that cannot be told were sudden."),
    }
    shapes = ("sudden", "smooth", "cannot tell", "none")
    about |= {
        f"{shape.replace(' ', '_')}_count": (
            each(lambda s, shape=shape: s.count(shape)),
            f"Series of the shape {shape!r}.",
        )
        for shape in shapes
    }
    return {name: variable(dims, values, "1", text) for name, (values, text) in about.items()}
