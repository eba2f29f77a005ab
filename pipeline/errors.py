"""Exceptions for invalid input: InputError ends the request, CheckpointError one checkpoint.

Every message is one sentence: what is wrong and where, the expected against the found value, and
how to correct it. Messages are kept and printed, so secrets of addresses are left out of them.
"""

import difflib
from collections.abc import Iterable

from pipeline.redaction import redacted


class InputError(ValueError):
    """An invalid configuration, or invalid data that it names; nothing is computed or written.

    further: where several things are wrong, a line for each of them after the first one.
    """

    def __init__(self, message: str = "", *further: str) -> None:
        super().__init__(redacted(message), *map(redacted, further))

    def __str__(self) -> str:
        return "\n".join(self.lines)

    @property
    def lines(self) -> tuple[str, ...]:
        """The lines of the message, each of which may be printed as one."""
        return tuple(map(str, self.args))


class CheckpointError(Exception):
    """A checkpoint that cannot be analysed; it is reported, and the others are computed."""

    def __init__(self, message: str = "") -> None:
        super().__init__(redacted(message))


class ChangedError(CheckpointError):
    """A checkpoint that was written to while it was read; reading it again may succeed."""


class DamagedError(CheckpointError):
    """A transfer whose bytes do not match the server's checksum; a retry may succeed."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type if there is none.

    Messages of other libraries may hold a signed address: its secrets are left out.
    """
    return redacted((str(error).strip() or type(error).__name__).splitlines()[0])


def suggestion(unknown: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the closest known name, or all of them."""
    names = sorted(known)
    if not names:
        return "none is known here"
    close = difflib.get_close_matches(unknown, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(names)}"
