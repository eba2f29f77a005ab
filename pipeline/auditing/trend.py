"""Find checkpoints that do not belong to a run, by the distances between all checkpoints.

Training moves the weights along a path that does not return to the same point, does not jump away
and come back, and begins at step 0. The bounds below are relative to the run's own pace (distance
between consecutive checkpoints) near each checkpoint, so that they hold for any warm-up, decay and
schedule of saving.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
from jaxtyping import Float

Distances = Float[np.ndarray, "checkpoint checkpoint"]

NEAR = 0.1  # of the local pace: checkpoints that are closer have the same weights
SURE = 0.6  # of the other's detour: a near checkpoint with less is the one at its right step
OFF = 3.0  # times the direct distance between its neighbours: further ones are of another run
COPY = 0.1  # of the distance to its neighbours: a checkpoint so near to another is a copy of it
UNRELATED = 0.5  # of the distance between independent weights
JUMP = 5.0  # times the pace of the following steps

_BETWEEN = 3  # checkpoints between two others, from which on their median distance is used
_WINDOW = 5  # gaps on each side that determine the local pace


@dataclass(frozen=True)
class Outlier:
    """A step that does not belong to the run.

    kind: "near" (a copy of another step), "off" (of no step) or "start" (an unrelated step 0).
    of: the step whose weights it has, None if there is none.
    """

    step: int
    kind: str
    of: int | None = None


def off_trend(steps: Sequence[int], distances: Distances, norms: Sequence[float]) -> list[Outlier]:
    """Return the steps that do not belong to the run; `steps` are ascending.

    norms: Euclidean norms of the checkpoints, on the scale of the distances.
    """
    start = _start(steps, distances, norms)
    first = len(start)  # the distance to a step 0 of another run is not this run's pace
    steps, distances = steps[first:], distances[first:, first:]
    near = _near(steps, distances)
    wrong = {finding.step for finding in near}
    kept = [i for i, step in enumerate(steps) if step not in wrong]
    return start + near + _detours(steps, distances, kept)


def distances_between(points: Float[np.ndarray, "checkpoint element"]) -> Distances:
    """Return the Euclidean distances between all rows."""
    # Differences to the first row are small, so that the squares below do not cancel.
    moved = points.astype(np.float64) - points[0]
    squares = (moved**2).sum(axis=1)
    product = moved @ moved.T
    distances = np.sqrt(np.maximum(squares[:, None] + squares[None, :] - 2 * product, 0.0))
    np.fill_diagonal(distances, 0.0)
    return distances


def _near(steps: Sequence[int], distances: Distances) -> list[Outlier]:
    """Return the steps that have the weights of another one, the largest detour first."""
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
        # In doubt the last step is right: it is the one that is most often copied.
        wrong = [(i, of) for i, of in wrong if sure or i != len(steps) - 1]
        found += [Outlier(steps[i], "near", steps[of]) for i, of in wrong]
        kept = [i for i in kept if i not in {i for i, _ in wrong}]
    return found


def _near_pairs(
    steps: Sequence[int], distances: Distances, kept: Sequence[int]
) -> list[tuple[int, int]]:
    """Return pairs that are near compared with the pace at both, or, if there are several others
    between them, with the median distance to those. Steps 0 and 1 may be equal, see `copies`."""
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
    """Return by how much the path through `i` is longer than without it, ignoring its copies."""
    before = next((k for k in reversed(kept) if k < i and k not in near), None)
    after = next((k for k in kept if k > i and k not in near), None)
    if before is None or after is None:
        neighbour = after if before is None else before
        return 0.0 if neighbour is None else max(distances[neighbour, i] - _pace(distances)[i], 0.0)
    return float(distances[before, i] + distances[i, after] - distances[before, after])


def _pace(distances: Distances) -> list[float]:
    """Return the pace at each checkpoint: the smaller of the median gaps on its two sides."""
    gaps = np.diagonal(distances, 1)
    sides = [(gaps[max(0, i - _WINDOW) : i], gaps[i : i + _WINDOW]) for i in range(len(distances))]
    return [
        min((float(np.median(side)) for side in both if len(side)), default=0.0) for both in sides
    ]


def _detours(steps: Sequence[int], distances: Distances, kept: Sequence[int]) -> list[Outlier]:
    """Return checkpoints that are far from two neighbours that are near each other, worst first."""
    kept, found = list(kept), []
    while len(kept) >= 3:
        scores = {
            # 1e-300 avoids a division by zero for equal neighbours.
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
    """Return step 0 if it is as far from the next one as independent weights and the run is slow.

    That is: d(0, next) >= UNRELATED sqrt(|W_0|^2 + |W_next|^2), which is a fraction of the distance
    between independent vectors, and >= JUMP times each of the next three gaps, scaled up if the
    first gap spans more steps.
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
