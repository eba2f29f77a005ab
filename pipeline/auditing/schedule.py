"""Which steps a run's own schedule has and the run has not.

The schedule is inferred from the steps that are there: powers of two up to some last one, then
stretches of one gap. Only a hole inside of these is a missing step: a run may change its gap, begin
late and end early as it likes.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

_FEWEST_POWERS = 4
_AROUND = 6  # gaps to each side that tell what is usual at a place
_FEWEST_USUAL = 5
_MOST_AT_AN_END = 2  # absent steps at the end of a stretch; more are another gap


def missing_steps(steps: Sequence[int]) -> list[int]:
    """The missing steps of an ascending sequence of steps."""
    powers = _leading_powers(steps)
    rest = [step for step in steps if not powers or step >= powers[-1]]
    linear = rest[1:] if powers else rest
    return sorted(
        {
            *_missing_powers(powers, linear),
            *_after_powers(powers, linear),
            *_holes(rest),
            *_before_last(linear),
        }
    )


def _leading_powers(steps: Sequence[int]) -> list[int]:
    """The powers of two that the run begins with, after 0: at least four, at most one absent
    between two of them."""
    powers: list[int] = []
    for step in steps:
        if step == 0:
            continue
        if step & (step - 1) or (powers and step > 4 * powers[-1]):
            break
        powers.append(step)
    return powers if len(powers) >= _FEWEST_POWERS else []


def _missing_powers(powers: Sequence[int], linear: Sequence[int]) -> Iterator[int]:
    """Powers absent between two others, of which the second is not there for another reason: as a
    multiple of the gap that follows. At least three later steps must show how it goes on."""
    gaps = _gaps([*powers[-1:], *linear])
    for index, (before, after) in enumerate(pairwise(powers)):
        later = len(powers) - index - 2 + len(linear)
        if after == 4 * before and later >= 3 and all(after % gap for gap in gaps):
            yield 2 * before


def _after_powers(powers: Sequence[int], linear: Sequence[int]) -> Iterator[int]:
    """Multiples of the usual gap that are absent where they should follow the powers of two.

    Before the next power of two none is sure: that is where the powers were given up.
    """
    gap = _usual(_gaps(linear))
    if powers and gap is not None:
        start = -(-2 * powers[-1] // gap) * gap
        stop = next(after for before, after in pairwise(linear) if after - before == gap)
        absent = sorted(set(range(start, stop, gap)) - set(linear))
        yield from absent if len(absent) <= _MOST_AT_AN_END else ()


def _before_last(steps: Sequence[int]) -> Iterator[int]:
    """Steps of the usual gap that are absent just before the last step."""
    *gaps, last = _gaps(steps) or [0]
    gap = _usual(gaps[-_AROUND:])
    if gap is not None and last % gap == 0 and 0 < last // gap - 1 <= _MOST_AT_AN_END:
        yield from range(steps[-2] + gap, steps[-1], gap)


def _usual(gaps: Sequence[int]) -> int | None:
    """The gap that most of them are, None where there is none or there are too few."""
    common = max(set(gaps), key=gaps.count, default=0)
    count = gaps.count(common)
    return common if count >= _FEWEST_USUAL and count > len(gaps) / 2 else None


def _holes(steps: Sequence[int]) -> Iterator[int]:
    """The steps that are absent between stretches of one gap."""
    gaps = _gaps(steps)
    for index, gap in enumerate(gaps):
        usual = _usual_gap(gaps, index)
        # What follows powers of two alone may be the end of these.
        begun = any(step & (step - 1) for step in steps[: index + 1])
        if usual is not None and begun:
            yield from range(steps[index] + usual, steps[index] + gap, usual)


def _usual_gap(gaps: Sequence[int], index: int) -> int | None:
    """The smaller gap that is usual around gap number `index`, and divides it; None for none.

    It is on both sides, at least five times, and three times as often as other gaps between them.
    """
    start, stop = max(0, index - _AROUND), index + _AROUND + 1
    before, after = gaps[start:index], gaps[index + 1 : stop]
    for gap in sorted(set(before) & set(after)):
        first, last = before.index(gap), len(after) - after[::-1].index(gap)
        stretch = [*before[first:], gaps[index], *after[:last]]
        count = stretch.count(gap)
        divides = gap < gaps[index] and gaps[index] % gap == 0
        if divides and count >= max(_FEWEST_USUAL, 3 * (len(stretch) - count)):
            return gap
    return None


def _gaps(steps: Sequence[int]) -> list[int]:
    return [after - before for before, after in pairwise(steps)]
