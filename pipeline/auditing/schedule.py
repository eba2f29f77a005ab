"""Find steps that are missing from a run's own schedule.

The schedule is inferred from the steps that exist: powers of two up to some last one, followed by
stretches of a constant gap. Only holes within these count as missing: a run may change its gap,
begin late and end early.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

# The bounds are conservative: a step that was never meant to exist must not be reported.
_FEWEST_POWERS = 4
_AROUND = 6  # gaps on each side from which the usual gap is inferred
_FEWEST_USUAL = 5
_MOST_AT_AN_END = 2  # absent steps at the end of a stretch; if there are more, the gap has changed


def missing_steps(steps: Sequence[int]) -> list[int]:
    """Return the missing steps of an ascending sequence of steps, ascending."""
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
    """Return the powers of two that the run begins with, after 0, if there are at least four;
    a single one may be absent between two others."""
    powers: list[int] = []
    for step in steps:
        if step == 0:
            continue
        if step & (step - 1) or (powers and step > 4 * powers[-1]):
            break
        powers.append(step)
    return powers if len(powers) >= _FEWEST_POWERS else []


def _missing_powers(powers: Sequence[int], linear: Sequence[int]) -> Iterator[int]:
    """Yield powers that are absent between two others, unless the second may be a multiple of the
    gap that follows. At least three later steps must show how the schedule continues."""
    gaps = _gaps([*powers[-1:], *linear])
    for index, (before, after) in enumerate(pairwise(powers)):
        later = len(powers) - index - 2 + len(linear)
        if after == 4 * before and later >= 3 and all(after % gap for gap in gaps):
            yield 2 * before


def _after_powers(powers: Sequence[int], linear: Sequence[int]) -> Iterator[int]:
    """Yield multiples of the usual gap that are absent after the powers of two.

    Those before the next power of two are not counted, since the schedule may have changed there.
    """
    gap = _usual(_gaps(linear))
    if powers and gap is not None:
        start = -(-2 * powers[-1] // gap) * gap
        stop = next(after for before, after in pairwise(linear) if after - before == gap)
        absent = sorted(set(range(start, stop, gap)) - set(linear))
        yield from absent if len(absent) <= _MOST_AT_AN_END else ()


def _before_last(steps: Sequence[int]) -> Iterator[int]:
    """Yield steps of the usual gap that are absent just before the last step."""
    *gaps, last = _gaps(steps) or [0]
    gap = _usual(gaps[-_AROUND:])
    if gap is not None and last % gap == 0 and 0 < last // gap - 1 <= _MOST_AT_AN_END:
        yield from range(steps[-2] + gap, steps[-1], gap)


def _usual(gaps: Sequence[int]) -> int | None:
    """Return the gap that more than half of them have; None if there is none or too few of it."""
    common = max(set(gaps), key=gaps.count, default=0)
    count = gaps.count(common)
    return common if count >= _FEWEST_USUAL and count > len(gaps) / 2 else None


def _holes(steps: Sequence[int]) -> Iterator[int]:
    """Yield the steps that are absent between stretches of the same gap."""
    gaps = _gaps(steps)
    begun = False
    for index, gap in enumerate(gaps):
        usual = _usual_gap(gaps, index)
        # A larger gap after powers of two only may be the end of the powers.
        begun = begun or bool(steps[index] & (steps[index] - 1))
        if usual is not None and begun:
            yield from range(steps[index] + usual, steps[index] + gap, usual)


def _usual_gap(gaps: Sequence[int], index: int) -> int | None:
    """Return the smaller gap that is usual around gap number `index` and divides it, or None.

    It must occur on both sides, at least five times, and three times as often as other gaps there.
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
