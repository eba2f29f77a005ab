"""The sharpest corner of a run's trajectory through loss space, judged against random walks.

A corner is where two straight lines meet. Random walks have corners too, and smooth curves bend
(the second component is often the first one's arch). So two lines and a smooth curve are fitted to
the trajectory over its arc length, and the ratio of what they leave is judged against walks with
the same step lengths: in random directions, and with the signs of the displacements flipped.
"""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Integer
from scipy.stats import chi2

from pipeline.aggregate.two_lines import LEAST, TwoLines, Walks
from pipeline.aggregate.variables import variable
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
    simulations: int = 1000,
    seed: int = 0,
) -> xr.Dataset:
    """Return the sharpest corner of a run's trajectory through a space, if it is outside its null.

    space: of `loss_space`; run: one of its runs, where it has several. transition: the first and
    last step of another transition, such as the interval of induction's midpoint.

    Over arc length, along the first `components`, two lines that meet at a checkpoint are fitted,
    and a cubic; the statistic is ln(squared error of the cubic / that of the best two lines). The
    p-value is the share of walks with at least that: the larger one of walks in random directions
    and of walks with flipped signs. Walks have the same arc lengths, so that they are fitted alike.
    `candidate` is where the two lines meet; `step` is the same where the p-value is at most 0.05,
    else NaN. The same for both halves of the checkpoints: a corner that moves with the window is an
    artefact of it. Raises InputError for fewer than 12 checkpoints, and
    where they are all alike.
    """
    names = np.unique(space["run"].values)
    if run is None and len(names) > 1:
        raise InputError(f"this space has the runs {', '.join(names)}: give one of them")
    chosen = space if run is None else space.isel(checkpoint=space["run"].values == run)
    points = chosen["scores"].values[:, :components]
    steps = chosen["step"].values
    if len(points) < _FEWEST:
        raise InputError(f"a corner needs at least {_FEWEST} checkpoints, found {len(points)}")
    if not np.ptp(points, axis=0).any():
        raise InputError("all checkpoints lie on one point: there is no trajectory")
    rng = np.random.default_rng(seed)
    found = {
        name: _judged(points[part], steps[part], rng, simulations)
        for name, part in _windows(len(points)).items()
        if part.stop - part.start >= _FEWEST and np.ptp(points[part], axis=0).any()
    }
    whole = found["whole"]
    result = _described(list(found.values())) | _persistence(points, rng, simulations)
    result["false_alarm_share"] = variable(
        (), whole.false_alarms, "1", "Share of fresh walks of either kind that would be reported."
    )
    if transition is not None:
        result |= _together(whole, transition)
    return xr.Dataset(
        result,
        {"window": list(found)},
        {"components": components, "level": LEVEL, "simulations": simulations, "seed": seed},
    )


@dataclass(frozen=True)
class _Corner:
    """The best corner of a trajectory, and those of the walks. angle: in degrees."""

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
    rng: np.random.Generator,
    simulations: int,
) -> _Corner:
    moves = np.diff(points, axis=0)
    lengths = np.linalg.norm(moves, axis=1)
    fits = TwoLines(np.concatenate([[0.0], lengths.cumsum()]))
    (statistic,), (place,) = fits.statistics(points[None])
    angle, residuals = fits.lines_at(points, int(place))
    walks, places = fits.statistics(_walks(lengths, points.shape[1], rng, simulations))
    flipped, _ = fits.statistics(_flips(moves, rng, simulations))
    limit = max(np.quantile(walks, 1 - LEVEL), np.quantile(flipped, 1 - LEVEL))
    fresh = np.concatenate([_walks(lengths, points.shape[1], rng, simulations),
                            _flips(moves, rng, simulations)])  # fmt: skip
    inside = _inside(fits.errors(points[None])[1][0], residuals)
    places_inside = fits.places[inside]
    p_walks, p_flipped = (
        float((1 + (null >= statistic).sum()) / (1 + simulations)) for null in (walks, flipped)
    )
    return _Corner(
        step=int(steps[place]),
        interval=(int(steps[places_inside[0]]), int(steps[places_inside[-1]])),
        angle=angle,
        statistic=float(statistic),
        p_walks=p_walks,
        p_flipped=p_flipped,
        false_alarms=float((fits.statistics(fresh)[0] > limit).mean()),
        of_walks=steps[places],
    )


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


def _walks(
    lengths: Float[np.ndarray, " move"], components: int, rng: np.random.Generator, count: int
) -> Walks:
    """Return walks of moves of these lengths in random directions."""
    moves = rng.standard_normal((count, len(lengths), components))
    moves *= (lengths / np.linalg.norm(moves, axis=2))[:, :, None]
    return _summed(moves)


def _flips(
    moves: Float[np.ndarray, "move component"], rng: np.random.Generator, count: int
) -> Walks:
    """Return walks of these moves, each forwards or backwards at random."""
    return _summed(moves * rng.choice([-1.0, 1.0], (count, len(moves), 1)))


def _summed(moves: Float[np.ndarray, "walk move component"]) -> Walks:
    return np.pad(moves.cumsum(axis=1), ((0, 0), (1, 0), (0, 0)))


def _windows(count: int) -> dict[str, slice]:
    parts = _WINDOWS.items()
    return {name: slice(round(a * count), round(b * count)) for name, (a, b) in parts}


def _persistence(
    points: Float[np.ndarray, "checkpoint component"], rng: np.random.Generator, simulations: int
) -> dict[str, xr.Variable]:
    """Return the mean cosine of successive displacements, and how often chance has as much."""
    moves = np.diff(points, axis=0)
    lengths = np.linalg.norm(moves, axis=1)
    nulls = (_walks(lengths, points.shape[1], rng, simulations), _flips(moves, rng, simulations))
    mean = float(_mean_cosine(points[None])[0])
    shares = [(np.abs(_mean_cosine(null)) >= abs(mean)).sum() for null in nulls]
    return {
        "mean_cosine": variable(
            (), mean, "1", "Mean cosine of the angle between successive displacements."
        ),
        "mean_cosine_p": variable(
            (), (1 + max(shares)) / (1 + simulations), "1",
            "Share of walks whose mean cosine is as far from 0, the larger one of both kinds.",
        ),
    }  # fmt: skip


def _mean_cosine(walks: Walks) -> Float[np.ndarray, " walk"]:
    moves = np.diff(walks, axis=1)
    lengths = np.linalg.norm(moves, axis=2)
    with np.errstate(invalid="ignore"):
        cosines = (moves[:, 1:] * moves[:, :-1]).sum(axis=2) / (lengths[:, 1:] * lengths[:, :-1])
    return np.nanmean(cosines, axis=1)


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
            "Share of random walks whose corner lies within the transition's interval.",
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
                    "Share of walks in random directions with at least this statistic."),
        "p_flipped": ([one.p_flipped for one in found], "1",
                      "Share of walks with flipped displacements with at least this statistic."),
    }  # fmt: skip
    return {name: variable("window", *about) for name, about in columns.items()}
