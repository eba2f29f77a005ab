"""Paths and addresses in settings."""

from typing import Annotated

from pydantic import AfterValidator

_MOST_CHARACTERS = 4096  # the longest path of Linux


def require_place(place: str) -> str:
    """Return a path or address; raise ValueError for one that no file or object can have."""
    if not place.strip():
        raise ValueError("it is empty: give a path or an address")
    if len(place) > _MOST_CHARACTERS:
        raise ValueError(f"it has {len(place):,} characters, expected at most {_MOST_CHARACTERS:,}")
    if "\0" in place or len(f"{place}.".splitlines()) > 1:
        raise ValueError(
            f"it holds a line break or a NUL, which scripts and logs cannot carry: {place[:80]!r}"
        )
    return place


Place = Annotated[str, AfterValidator(require_place)]
