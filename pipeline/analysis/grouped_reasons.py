"""Write reasons that many steps share, such as those of failures, as one line."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

_MOST_RANGES = 20  # in one line
_LEAST_EVEN = 3  # steps at equal distances that are written as a range
_COMMIT = re.compile(r"\b[0-9a-f]{40}\b")  # in addresses on the Hub, another one for each step


def grouped_by_reason(said: Mapping[int, str]) -> list[str]:
    """Return the sentences on some steps in their order, once if they differ in the step alone.

    said: a sentence by step, which may hold the step after the word "step" or in an address. The
    line for several steps has their number, their ranges, and the sentence on the first of them.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for step in sorted(said):
        groups[_without_step(said[step], step)].append(step)
    return [
        said[steps[0]]
        if len(steps) == 1
        else f"{len(steps)} steps alike ({ranges(steps)}), the first: {said[steps[0]]}"
        for steps in groups.values()
    ]


def ranges(steps: Iterable[int]) -> str:
    """Return steps in words, those at equal distances as one range: "0, 100 to 900 by 100"."""
    parts = [_range(part) for part in _even_parts(sorted(steps))]
    more = [f"and {len(parts) - _MOST_RANGES} more"] * (len(parts) > _MOST_RANGES)
    return ", ".join([*parts[:_MOST_RANGES], *more])


def _without_step(sentence: str, step: int) -> str:
    # Only where it names the step: another number of the sentence may be equal to it.
    number = rf"(?:(?<=step )|(?<=[-_/=@A-Za-z]))0*(?:{step}|{step:,})(?![\d,]*\d)"
    return _COMMIT.sub("#", re.sub(number, "#", sentence))


def _even_parts(steps: Sequence[int]) -> list[Sequence[int]]:
    """Return parts of the ordered steps: at least three at equal distances, or one alone."""
    parts: list[Sequence[int]] = []
    start = 0
    while start < len(steps):
        stop = start + 1
        while stop < len(steps) and (
            steps[stop] - steps[stop - 1] == steps[start + 1] - steps[start]
        ):
            stop += 1
        if stop - start < _LEAST_EVEN:
            stop = start + 1
        parts.append(steps[start:stop])
        start = stop
    return parts


def _range(steps: Sequence[int]) -> str:
    if len(steps) == 1:
        return str(steps[0])
    distance = steps[1] - steps[0]
    return f"{steps[0]} to {steps[-1]}" + (f" by {distance}" if distance > 1 else "")
