"""The ways in which what a user brings can be wrong: as a whole, or one checkpoint.

All carry one sentence: what is wrong, where, what was expected against what was found, what to do.
"""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """The configuration, or something it names, cannot be used: nothing is computed or written."""


class CheckpointError(Exception):
    """One checkpoint cannot be analysed: it is reported by name, the others are computed."""


class ChangedError(CheckpointError):
    """Something was written to a checkpoint while it was read: another try may find it still."""


class DamagedError(CheckpointError):
    """The bytes that came are not those that the place says it sent: another try may help."""


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def suggestion(unknown: str, known: Iterable[str]) -> str:
    """The tail of an error about an unknown name: the nearest known one, or all of them."""
    names = sorted(known)
    if not names:
        return "none is known here"
    close = difflib.get_close_matches(unknown, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(names)}"
