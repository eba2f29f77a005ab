"""Checkpoints that are not where training must have been: by the distances between all of them.

Training moves the weights along a path. Three things do not happen on it: to be at the same point
twice, to jump away and come back, and to begin somewhere else than at step 0. What each bound below
is compared with is the run's own pace at that place, so that warm-up, decay and the schedule of
saving make no difference.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
from jaxtyping import Float

Distances = Float[np.ndarray, "checkpoint checkpoint"]

NEAR = 0.1  # of the run's pace there: closer ones are the same weights
SURE = 0.6  # of the other's extra way: this one of two near checkpoints is in its place
OFF = 3.0  # times the way past it: a detour as long leads to another run's weights
COPY = 0.1  # of its distance to the steps around it: what is so near to a step is a copy of it
UNRELATED = 0.5  # of the distance between independent weights
JUMP = 5.0  # times the pace of the steps after it

_BETWEEN = 3  # as many tell, by their median, how far a run goes from one place to another
_WINDOW = 5  # gaps to either side that make the pace at a place


@dataclass(frozen=True)
class Outlier:
    """One step that does not belong: of: the step whose weights it has, None if it is none's.

    kind: "near", "off" or "start".
    """

    step: int
    kind: str
    of: int | None = None


def off_trend(steps: Sequence[int], distances: Distances, norms: Sequence[float]) -> list[Outlier]:
    """The steps that do not belong to the run, of checkpoints at ascending `steps`.

    norms: those of the checkpoints, on the scale of the distances.
    """
    start = _start(steps, distances, norms)
    first = len(start)  # a step 0 of another run says nothing of the pace of this one
    steps, distances = steps[first:], distances[first:, first:]
    near = _near(steps, distances)
    wrong = {finding.step for finding in near}
    kept = [i for i, step in enumerate(steps) if step not in wrong]
    return start + near + _detours(steps, distances, kept)


def distances_between(points: Float[np.ndarray, "checkpoint element"]) -> Distances:
    """Euclidean distances between all rows."""
    moved = points.astype(np.float64) - points[0]  # near points stay exact: no large squares cancel
    squares = (moved**2).sum(axis=1)
    product = moved @ moved.T
    distances = np.sqrt(np.maximum(squares[:, None] + squares[None, :] - 2 * product, 0.0))
    np.fill_diagonal(distances, 0.0)
    return distances


def _near(steps: Sequence[int], distances: Distances) -> list[Outlier]:
    """Steps that have the weights of another one; the one that is most out of its place first."""
    kept, found = list(range(len(steps))), []
    while pairs := _near_pairs(steps, distances, kept):
        partners: dict[int, list[int]] = defaultdict(list)
        for i, j in pairs:
            partners[i].append(j)
            partners[j].append(i)
        ways = {i: _extra_way(distances, i, kept, near) for i, near in partners.items()}
        worst = max(ways, key=lambda i: ways[i])
        other = min(partners[worst], key=lambda j: distances[worst, j])
        sure = ways[other] < SURE * ways[worst]
        wrong = [(worst, other)] if sure else [(worst, other), (other, worst)]
        wrong = [(i, of) for i, of in wrong if sure or i != len(steps) - 1]
        found += [Outlier(steps[i], "near", steps[of]) for i, of in wrong]
        kept = [i for i in kept if i not in {i for i, _ in wrong}]
    return found


def _near_pairs(
    steps: Sequence[int], distances: Distances, kept: Sequence[int]
) -> list[tuple[int, int]]:
    """Pairs that are near by the pace at both places, or, where several others lie between them, by
    the usual distance to those. Steps 0 and 1 may be equal: see `copies`."""
    among = distances[np.ix_(kept, kept)]
    pace, pairs = _pace(among), []
    for i, j in combinations(range(len(kept)), 2):
        scale = min(pace[i], pace[j])
        if j - i > _BETWEEN:
            scale = max(scale, float(np.median(among[i, i + 1 : j])))
        if among[i, j] < NEAR * scale and (steps[kept[i]], steps[kept[j]]) != (0, 1):
            pairs.append((kept[i], kept[j]))
    return pairs


def _extra_way(distances: Distances, i: int, kept: Sequence[int], near: Sequence[int]) -> float:
    """By how much the way through `i` is longer than past it, those near to it left out."""
    before = next((k for k in reversed(kept) if k < i and k not in near), None)
    after = next((k for k in kept if k > i and k not in near), None)
    if before is None or after is None:
        neighbour = after if before is None else before
        return 0.0 if neighbour is None else max(distances[neighbour, i] - _pace(distances)[i], 0.0)
    return float(distances[before, i] + distances[i, after] - distances[before, after])


def _pace(distances: Distances) -> list[float]:
    """At each checkpoint the usual distance to the next: the smaller of both sides' medians."""
    gaps = np.diagonal(distances, 1)
    sides = [(gaps[max(0, i - _WINDOW) : i], gaps[i : i + _WINDOW]) for i in range(len(distances))]
    return [
        min((float(np.median(side)) for side in both if len(side)), default=0.0) for both in sides
    ]


def _detours(steps: Sequence[int], distances: Distances, kept: Sequence[int]) -> list[Outlier]:
    """Checkpoints that are far from both neighbours, which are near each other; the worst first."""
    kept, found = list(kept), []
    while len(kept) >= 3:
        scores = {
            b: min(distances[a, b], distances[b, c]) / max(distances[a, c], 1e-300)
            for a, b, c in zip(kept, kept[1:], kept[2:], strict=False)
        }
        worst = max(scores, key=lambda b: scores[b])
        if scores[worst] <= OFF:
            return found
        around = kept.index(worst)
        apart = min(distances[kept[around - 1], worst], distances[worst, kept[around + 1]])
        kept.remove(worst)
        nearest = min(kept, key=lambda other: distances[worst, other])
        is_copy = distances[worst, nearest] < COPY * apart
        found.append(
            Outlier(steps[worst], "near" if is_copy else "off", steps[nearest] if is_copy else None)
        )
    return found


def _start(steps: Sequence[int], distances: Distances, norms: Sequence[float]) -> list[Outlier]:
    """Step 0, if it is as far from the next one as independent weights are, and the run is slow.

    d(0, next) >= UNRELATED sqrt(|W_0|^2 + |W_next|^2), and >= JUMP times each of the next three
    gaps, these enlarged by how many more steps the first one spans.
    """
    if len(steps) < 3 or steps[0] != 0:
        return []
    gap = distances[0, 1]
    slow = all(
        gap >= JUMP * distances[a, b] * max(1.0, steps[1] / (steps[b] - steps[a]))
        for a, b in pairwise(range(1, min(len(steps), 5)))
    )
    independent = UNRELATED * float(np.hypot(norms[0], norms[1]))
    return [Outlier(0, "start")] if slow and gap >= independent else []
