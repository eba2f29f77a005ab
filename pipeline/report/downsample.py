"""Downsampling: the checkpoints that a figure draws where there are too many."""

import numpy as np
from jaxtyping import Int

MOST_LOSSES = 2**26  # stored losses beyond which those of tokens are left to `ontogeny losses`
RULE = "evenly spaced in log(1 + step)"


def kept_indices(steps: Int[np.ndarray, " step"], at_most: int) -> Int[np.ndarray, " kept"]:
    """Return indices of at most `at_most` of ascending `steps`, with the first and the last.

    The steps nearest to points evenly spaced in log(1 + step), the scale on which training
    progresses; as many points as give at most that many different steps. All, if these are few.
    """
    if len(steps) <= at_most:
        return np.arange(len(steps))
    place = np.log1p(steps.astype(np.float64))
    # Bisection: early steps are sparse on a log scale, so several points may have the same nearest
    # step, and more points than steps are needed.
    fewest, most = at_most, at_most * 64
    while most - fewest > 1:
        middle = (fewest + most) // 2
        if len(_nearest(place, middle)) <= at_most:
            fewest = middle
        else:
            most = middle
    return _nearest(place, fewest)


def _nearest(
    place: np.ndarray[tuple[int], np.dtype[np.float64]], points: int
) -> Int[np.ndarray, " kept"]:
    wanted = np.linspace(place[0], place[-1], points)
    after = np.clip(np.searchsorted(place, wanted), 1, len(place) - 1)
    nearer_before = wanted - place[after - 1] <= place[after] - wanted
    return np.unique(after - nearer_before)
