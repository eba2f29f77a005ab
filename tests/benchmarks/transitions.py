"""Planted transitions that `find_transitions` finds, and its false reports.

    python tests/benchmarks/transitions.py [--series N] [--seed N] [--json]

Series are drawn at random: schedules as Pythia's, linear and logarithmic, of 20 to 2,000
checkpoints; one to three sigmoids over a drift; white, changing and autocorrelated noise; half of
them with spikes. Nulls are constants, power laws, exponentials and slow sigmoids, and random walks.

found_share: of the transitions with at least 20 plain checkpoints on each side, at most 0.3 decades
wide and 5 standard deviations of the noise large, those found within 5% of the log range;
found_share_all: of all. cpu_seconds_600x384x12: of all series of a run of 600 checkpoints, 384
heads and 12 scores. pca_over_gram: see loss_space.py. Set OMP_NUM_THREADS=1.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from loss_space import pca_over_gram

from pipeline.aggregate.log_axis import log_steps
from pipeline.aggregate.transitions import Transition, scan

TOLERANCE = 0.05  # of the log range: a transition is found where its midpoint is as near as that
PLAIN = 20  # checkpoints without another transition, on each side of one that should be found
NARROW = 0.3  # decades
SCHEDULES = {
    "pythia": np.array([0, *2 ** np.arange(10), *range(1000, 144_000, 1000)]),
    "linear 150": 25 * np.arange(150),
    "linear 600": 25 * np.arange(600),
    "linear 2000": 25 * np.arange(2000),
    "log 20": np.unique(np.geomspace(1, 100_000, 20).round().astype(int)),
    "log 40": np.unique(np.geomspace(1, 100_000, 40).round().astype(int)),
    "log 150": np.unique(np.geomspace(10, 1_000_000, 150).round().astype(int)),
    "log 600": np.unique(np.geomspace(100, 10_000_000, 600).round().astype(int)),
}
NOISES = ("white", "changing", "autocorrelated")
RATIOS = (2.0, 5.0, 20.0)  # amplitude of the smallest transition over the noise's SD
NULLS = ("constant", "power law", "exponential", "slow sigmoid", "drift")


@dataclass(frozen=True)
class Planted:
    """A planted transition. plain: checkpoints around it on its poorer side, see PLAIN."""

    midpoint: float
    width: float
    amplitude: float
    plain: int


@dataclass(frozen=True)
class Series:
    """A planted series with what is in it."""

    schedule: str
    noise: str
    ratio: float
    kind: str
    values: np.ndarray
    planted: tuple[Planted, ...] = ()


def sigmoid(x: np.ndarray, midpoint: float, width: float) -> np.ndarray:
    """Return a logistic function that rises from 10 to 90% over `width`."""
    return 1 / (1 + np.exp(-np.clip((x - midpoint) * 2 * np.log(9) / width, -500, 500)))


def draw(rng: np.random.Generator, kind: str, schedule: str = "") -> Series:
    """Draw a series of a kind: "transitions", "random walk" or one of NULLS."""
    schedule = schedule or str(rng.choice(list(SCHEDULES)))
    noise, ratio = str(rng.choice(NOISES)), float(rng.choice(RATIOS))
    steps = SCHEDULES[schedule]
    x = log_steps(steps)
    if kind == "random walk":
        values = rng.standard_normal(len(x)).cumsum()
        return Series(schedule, noise, ratio, kind, values)
    planted = _plant(rng, x) if kind == "transitions" else ()
    clean = sum((one.amplitude * sigmoid(x, one.midpoint, one.width) for one in planted), 0 * x)
    if kind == "transitions":
        clean = clean + rng.uniform(-1, 1) * (x - x[0]) / (x[-1] - x[0])
    else:
        clean = _null(rng, kind, steps, x)
    values = clean + make_noise(rng, noise, len(x)) / ratio
    if rng.random() < 0.5:
        add_spikes(rng, values)
    return Series(schedule, noise, ratio, kind, values * 10 ** rng.uniform(-3, 3), planted)


def _plant(rng: np.random.Generator, x: np.ndarray) -> tuple[Planted, ...]:
    span, count = x[-1] - x[0], int(rng.integers(1, 4))
    while True:
        midpoints = np.sort(rng.uniform(x[0] + 0.1 * span, x[-1] - 0.1 * span, count))
        widths = 10 ** rng.uniform(np.log10(0.02), np.log10(0.6), count)
        # Two that overlap are one: which of them is found would say nothing.
        if all(np.diff(midpoints) > widths[1:] + widths[:-1]):
            break
    signs = rng.choice([-1.0, 1.0], count) * rng.uniform(1, 2, count)
    starts, ends = midpoints - widths, midpoints + widths
    planted = []
    for i in range(count):
        left = ends[i - 1] if i else -np.inf
        right = starts[i + 1] if i + 1 < count else np.inf
        before = np.sum((x < starts[i]) & (x > left))
        after = np.sum((x > ends[i]) & (x < right))
        plain = int(min(before, after))
        planted.append(Planted(float(midpoints[i]), float(widths[i]), float(signs[i]), plain))
    return tuple(planted)


def _null(rng: np.random.Generator, kind: str, steps: np.ndarray, x: np.ndarray) -> np.ndarray:
    sign, first = rng.choice([-1.0, 1.0]), max(float(steps[steps > 0][0]), 1.0)
    if kind == "constant":
        return np.zeros(len(x))
    if kind == "drift":
        return sign * (x - x[0]) / (x[-1] - x[0])
    if kind == "slow sigmoid":
        width = rng.uniform(1.34, 3)
        return sign * sigmoid(x, rng.uniform(x[0], x[-1]), width)
    scale = 10 ** rng.uniform(np.log10(first), x[-1])
    if kind == "exponential":
        return sign * np.exp(-steps / scale)
    return sign * (1 + steps / scale) ** -rng.uniform(0.1, 1)


def make_noise(rng: np.random.Generator, kind: str, count: int) -> np.ndarray:
    white = rng.standard_normal(count)
    if kind == "changing":
        return white * np.geomspace(*rng.permutation([0.447, 2.236]), count)
    if kind == "autocorrelated":
        for i in range(1, count):
            white[i] = 0.7 * white[i - 1] + np.sqrt(1 - 0.49) * white[i]
    return white


def add_spikes(rng: np.random.Generator, values: np.ndarray) -> None:
    for _ in range(int(rng.integers(1, 4))):
        start, length = (
            int(rng.integers(len(values))),
            int(rng.integers(1, min(6, 2 + len(values) // 30))),
        )
        values[start : start + length] += 10 ** rng.uniform(np.log10(60), np.log10(3000))


def found_by_series(drawn: list[Series]) -> Iterator[tuple[Series, list[Transition]]]:
    """Yield each series with its transitions; those of one schedule are scanned together."""
    for name, steps in SCHEDULES.items():
        mine = [one for one in drawn if one.schedule == name]
        if mine:
            results = scan(steps, np.stack([one.values for one in mine]))
            for one, result in zip(mine, results, strict=True):
                yield one, result.transitions


def _matched(
    series: Series, found: list[Transition]
) -> Iterator[tuple[Planted | None, Transition | None]]:
    x = log_steps(SCHEDULES[series.schedule])
    near, left = TOLERANCE * (x[-1] - x[0]), list(found)
    for one in series.planted:
        distances = [abs(np.log10(t.midpoint) - one.midpoint) for t in left]
        if distances and min(distances) <= near:
            yield one, left.pop(int(np.argmin(distances)))
        else:
            yield one, None
    for wrong in left:
        yield None, wrong


def measure(count: int, seed: int) -> dict[str, Any]:
    """Return the figures of the module's docstring over `count` series of each group."""
    rng = np.random.default_rng(seed)
    true = [draw(rng, "transitions") for _ in range(count)]
    nulls = [draw(rng, NULLS[i % len(NULLS)]) for i in range(count)]
    walks = [draw(rng, "random walk") for _ in range(count // 4)]
    everything = list(found_by_series(true))
    pairs = [(s, p, t) for s, found in everything for p, t in _matched(s, found)]
    clear = [
        t is not None
        for s, p, t in pairs
        if p and s.ratio == 5 and p.plain >= PLAIN and p.width <= NARROW
    ]
    covered = [inside for _, p, t in pairs if p and t for inside in _inside(p, t)]
    wrong = sum(p is None for _, p, _ in pairs)
    alarms = [(s, bool(found)) for s, found in found_by_series(nulls)]
    by_kind = {kind: _share([hit for s, hit in alarms if s.kind == kind]) for kind in NULLS}
    by_noise = {noise: _share([hit for s, hit in alarms if s.noise == noise]) for noise in NOISES}
    return {
        "found_share": _share(clear),
        "found_share_all": _share([t is not None for _, p, t in pairs if p]),
        "false_alarm_share": _share([hit for _, hit in alarms]),
        "false_alarm_shares": by_kind | by_noise,
        "false_reports_per_series": round(wrong / len(true), 4),
        "random_walk_share": _share([bool(f) for _, f in found_by_series(walks)]),
        "interval_coverage": _share(covered),
        "interval_coverages": {
            name: _share([_inside(p, t)[i] for _, p, t in pairs if p and t])
            for i, name in enumerate(("onset", "midpoint", "end"))
        },
        "clear_transitions": len(clear),
    }


def cpu_seconds(heads: int = 384, scores: int = 12) -> float:
    """Return the CPU seconds of scanning every score of every head over 600 checkpoints."""
    rng, steps = np.random.default_rng(0), SCHEDULES["linear 600"]
    kinds = ("transitions", *NULLS)
    drawn = [draw(rng, kinds[i % len(kinds)], "linear 600") for i in range(heads * scores)]
    values = np.stack([one.values for one in drawn])
    begun = time.process_time()
    scan(steps, values)
    return round(time.process_time() - begun, 1)


def _inside(planted: Planted, found: Transition) -> list[bool]:
    places = (planted.midpoint + part * planted.width for part in (-0.5, 0, 0.5))
    intervals = (found.onset_interval, found.midpoint_interval, found.end_interval)
    return [
        bool(np.log10(low) <= place <= np.log10(high))
        for place, (low, high) in zip(places, intervals, strict=True)
    ]


def _share(hits: list[bool]) -> float | None:
    return round(float(np.mean(hits)), 4) if hits else None


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--series", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = measure(arguments.series, arguments.seed)
    figures |= {"cpu_seconds_600x384x12": cpu_seconds(), **pca_over_gram()}
    print(json.dumps(figures, indent=None if arguments.json else 1))


if __name__ == "__main__":
    main()
