"""The sharpest corner of a run's trajectory through loss space, judged against random walks.

A corner is where two straight lines meet. Random walks have corners too, and smooth curves bend
(the second component is often the first one's arch). So two lines and a smooth curve are fitted to
the trajectory over its arc length, and the ratio of what they leave is judged against walks with
the same step lengths in 2 to 1,000 dimensions, each on its own principal components, and against
the run's own displacements with their signs flipped.
"""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Integer
from scipy.stats import chi2

from pipeline.aggregate.two_lines import (
    LEAST,
    arc_lengths,
    fit_errors,
    lines_at,
    places,
    statistics,
)
from pipeline.aggregate.variables import variable
from pipeline.aggregate.walk_null import DIMENSIONS, Nulls, draw_nulls, on_components
from pipeline.errors import InputError

LEVEL = 0.05  # of the tests
_FEWEST = 3 * LEAST  # checkpoints of a trajectory
_WINDOWS = {"whole": (0.0, 1.0), "first half": (0.0, 0.5), "last half": (0.5, 1.0)}


def find_corner(
    space: xr.Dataset,
    run: str | None = None,
    *,
    components: int = 2,
    transition: tuple[float, float] | None = None,
    simulations: int = 200,
    seed: int = 0,
) -> xr.Dataset:
    """Return the sharpest corner of a run's trajectory through a space, if it is outside its null.

    space: of `loss_space`; run: one of its runs, where it has several: its scores are turned to
    their own principal components. transition: the first and last step of another transition, such
    as the interval of induction's midpoint. simulations: walks of each kind.

    Over arc length, along the first `components`, two lines that meet at a checkpoint are fitted,
    and a cubic; the statistic is ln(squared error of the cubic / that of the best two lines). The
    p-value is the share of walks with at least that, the largest one of all kinds: walks in random
    directions in each of DIMENSIONS, with the distances over all tokens as step lengths, and the
    run's displacements with flipped signs; each on its own components. In how many dimensions a
    run wanders is unknown, hence the largest.
    `candidate` is where the two lines meet; `step` is the same where the p-value is at most 0.05,
    else NaN. The same for both halves of the checkpoints: a corner that moves with the window is an
    artefact of it. Raises InputError for fewer than 12 checkpoints, and
    where they are all alike.
    """
    chosen = _trajectory(space, run)
    scores = chosen["scores"].values
    components = min(components, scores.shape[1])
    points = on_components(scores[None], components)[0]
    rng = np.random.default_rng(seed)
    nulls = draw_nulls(scores, chosen["distance"].values[1:], components, rng, simulations)
    found = {
        name: _judged(points[part], chosen["step"].values[part], nulls.within(part))
        for name, part in _windows(len(points)).items()
        if part.stop - part.start >= _FEWEST and np.ptp(points[part], axis=0).any()
    }
    whole = found["whole"]
    result = _described(list(found.values())) | _persistence(
        chosen["turning_angle"].values[1:-1], rng, simulations
    )
    result["false_alarm_share"] = variable(
        (), whole.false_alarms, "1",
        "Share of fresh walks, in other numbers of dimensions, that would be reported; the largest "
        "of these numbers.",
    )  # fmt: skip
    if transition is not None:
        result |= _together(whole, transition)
    about = {"components": components, "level": LEVEL, "simulations": simulations, "seed": seed}
    about["dimensions"] = list(DIMENSIONS)
    return xr.Dataset(result, {"window": list(found)}, about)


def _trajectory(space: xr.Dataset, run: str | None) -> xr.Dataset:
    """Return the part of a space that has one run. Raises InputError where it has no corner."""
    names = np.unique(space["run"].values)
    if run is None and len(names) > 1:
        raise InputError(f"this space has the runs {', '.join(names)}: give one of them")
    chosen = space if run is None else space.isel(checkpoint=space["run"].values == run)
    scores = chosen["scores"].values
    if len(scores) < _FEWEST:
        raise InputError(f"a corner needs at least {_FEWEST} checkpoints, found {len(scores)}")
    if not np.ptp(scores, axis=0).any():
        raise InputError("all checkpoints lie on one point: there is no trajectory")
    return chosen


@dataclass(frozen=True)
class _Corner:
    """The best corner of a trajectory, and the sharpest 5% of those of walks. angle: in degrees."""

    step: int
    interval: tuple[int, int]
    angle: float
    statistic: float
    p_walks: float
    p_flipped: float
    false_alarms: float
    of_walks: Integer[np.ndarray, " walk"]  # steps

    @property
    def p(self) -> float:
        return max(self.p_walks, self.p_flipped)


def _judged(
    points: Float[np.ndarray, "checkpoint component"],
    steps: Integer[np.ndarray, " checkpoint"],
    nulls: Nulls,
) -> _Corner:
    (statistic,), (place,) = statistics(points[None])
    angle, residuals = lines_at(points, int(place))
    walks = [statistics(one) for one in nulls.random]
    flipped, _ = statistics(nulls.flipped)
    limit = max(np.quantile(one, 1 - LEVEL) for one in (*(one for one, _ in walks), flipped))
    pooled, where = (np.concatenate(one) for one in zip(*walks, strict=True))
    errors = fit_errors(arc_lengths(points[None]), points[None])[1][0]
    inside = steps[places(len(points))][_inside(errors, residuals)]
    return _Corner(
        step=int(steps[place]),
        interval=(int(inside[0]), int(inside[-1])),
        angle=angle,
        statistic=float(statistic),
        p_walks=max(_share(one >= statistic) for one, _ in walks),
        p_flipped=_share(flipped >= statistic),
        false_alarms=max(float((statistics(one)[0] > limit).mean()) for one in nulls.fresh),
        of_walks=steps[where[pooled >= np.quantile(pooled, 1 - LEVEL)]],
    )


def _share(reached: Bool[np.ndarray, " walk"]) -> float:
    """Return the p-value of a trajectory whose statistic these walks reach or not."""
    return float((1 + reached.sum()) / (1 + len(reached)))


def _inside(
    errors: Float[np.ndarray, " place"], residuals: Float[np.ndarray, "checkpoint component"]
) -> Bool[np.ndarray, " place"]:
    """Return which places a likelihood ratio does not refuse, at a level of 10%.

    With as many independent points as the residuals' autocorrelation leaves.
    """
    lagged = float((residuals[1:] * residuals[:-1]).sum())
    rho = min(max(lagged / max(float((residuals**2).sum()), 1e-300), 0.0), 0.99)
    independent = residuals.size * (1 - rho) / (1 + rho)
    return independent * np.log(errors / errors.min()) <= chi2.ppf(0.9, 1)


def _windows(count: int) -> dict[str, slice]:
    parts = _WINDOWS.items()
    return {name: slice(round(a * count), round(b * count)) for name, (a, b) in parts}


def _persistence(
    angles: Float[np.ndarray, " turn"], rng: np.random.Generator, count: int
) -> dict[str, xr.Variable]:
    """Return the mean cosine of successive displacements, and how often chance has as much.

    Over all tokens: on principal components, the moves of random walks persist. angles: in degrees;
    NaN where a displacement is 0.
    """
    cosines = np.cos(np.radians(angles[np.isfinite(angles)]))
    mean = cosines.mean() if len(cosines) else np.nan
    # Displacements with random signs have products with independent random signs.
    flipped = (cosines * rng.choice([-1.0, 1.0], (count, len(cosines)))).sum(axis=1)
    p = _share(np.abs(flipped) >= abs(cosines.sum())) if len(cosines) else np.nan
    return {
        "mean_cosine": variable(
            (), mean, "1",
            "Mean cosine of the angle between successive displacements over all tokens.",
        ),
        "mean_cosine_p": variable(
            (), p, "1",
            "Share of trajectories with flipped displacements whose mean cosine is as far from 0.",
        ),
    }  # fmt: skip


def _together(whole: _Corner, transition: tuple[float, float]) -> dict[str, xr.Variable]:
    """Return whether a corner and a transition overlap, and how often walks have that."""
    low, high = transition
    overlap = whole.interval[0] <= high and whole.interval[1] >= low
    near = (whole.of_walks >= low) & (whole.of_walks <= high)
    return {
        "coincides": variable(
            (), float(overlap) if whole.p <= LEVEL else np.nan, "1",
            "1 where the corner's interval overlaps the transition's, 0 where not, NaN without a "
            "corner.",
        ),
        "coincides_by_chance": variable(
            (), float(near.mean()), "1",
            "Share of the sharpest 5% of random walks' corners within the transition's interval.",
        ),
    }  # fmt: skip


def _described(found: list[_Corner]) -> dict[str, xr.Variable]:
    reported = [one.step if one.p <= LEVEL else np.nan for one in found]
    columns = {
        "step": (reported, "steps", "Checkpoint of the corner; NaN where walks have such corners."),
        "candidate": ([one.step for one in found], "steps",
                      "Checkpoint at which two lines fit best."),
        "low": ([one.interval[0] for one in found], "steps",
                "First checkpoint that a likelihood ratio does not refuse at 10%."),
        "high": ([one.interval[1] for one in found], "steps",
                 "Last checkpoint that a likelihood ratio does not refuse at 10%."),
        "angle": ([one.angle for one in found], "degrees", "Angle by which the second line turns."),
        "statistic": ([one.statistic for one in found], "1",
                      "Log ratio of the squared errors of a cubic and of the two lines."),
        "p_walks": ([one.p_walks for one in found], "1",
                    "Share of walks in random directions with at least this statistic, the largest "
                    "one of all numbers of dimensions."),
        "p_flipped": ([one.p_flipped for one in found], "1",
                      "Share of walks with flipped displacements with at least this statistic."),
    }  # fmt: skip
    return {name: variable("window", *about) for name, about in columns.items()}
