"""Patterns of tensors' names in one's own models, and the places that they have."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipeline.checkpoints.known_names import ARGUMENTS, BUILT_IN, MODULES, PLACES, TRANSFORMERLENS
from pipeline.errors import InputError, suggestion

BLOCK, HEAD = "{}", "{head}"


@dataclass(frozen=True)
class Entry:
    """The place of a tensor, or of the tensors of all blocks and heads.

    name: the tensor's, with `{}` for the number of a block and `{head}` for that of a head. place:
    TransformerLens' name, None for a tensor that the forward pass does not use. axes: stated ones.
    needed: whether the file must have it. asks: arguments of PyTorch's layers that the tensors do
    not show.
    """

    name: str
    place: str | None
    axes: str | None = None
    needed: bool = False
    asks: tuple[str, ...] = ()

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        escaped = re.escape(self.name).replace(re.escape(BLOCK), r"(?P<block>\d{1,6})", 1)
        return re.compile(escaped.replace(re.escape(HEAD), r"(?P<head>\d{1,6})", 1), re.ASCII)

    def match(self, name: str) -> tuple[int, int] | None:
        """Return the numbers of block and head of a tensor of this entry, -1 for none; or None."""
        found = self._pattern.fullmatch(name)
        if found is None:
            return None
        parts = found.groupdict()
        return int(parts.get("block", -1)), int(parts.get("head", -1))


def entries_of(names: Any) -> list[Entry]:
    """Return the entries of `model.names`: of a built-in table, or of a dictionary.

    Raises InputError for an unknown table, place or module.
    """
    if isinstance(names, str):
        if names not in BUILT_IN:
            known = [TRANSFORMERLENS, *BUILT_IN]
            raise InputError(f"`names: {names}` is unknown; {suggestion(names, known)}")
        return [one for name, place in BUILT_IN[names].items() for one in _entries(name, place)]
    return [one for name, place in names.items() for one in _entries(name, place, needed=True)]


def unmatched(entries: Sequence[Entry], names: Sequence[str]) -> list[str]:
    """Return the names that no entry matches."""
    return [name for name in names if all(one.match(name) is None for one in entries)]


def table_of(names: Sequence[str]) -> str | None:
    """Return the built-in table that has a place for each of the names; None if none has."""
    return next((one for one in BUILT_IN if not unmatched(entries_of(one), names)), None)


def _entries(name: str, value: Any, needed: bool = False) -> Iterator[Entry]:
    """Yield the entries of one key of a dictionary and its value."""
    if value is None:
        yield Entry(name, None, needed=needed)
        return
    if isinstance(value, list | tuple):
        for one in value:
            yield from _entries(name, one, needed)
        return
    place = value["name"] if isinstance(value, Mapping) else str(value)
    if name.endswith("."):
        yield from _of_module(name, place)
        return
    axes = value.get("axes") if isinstance(value, Mapping) else None
    yield Entry(name, _checked(name, place), axes, needed)


def _of_module(prefix: str, module: str) -> Iterator[Entry]:
    """Yield the entries of the tensors within one of PyTorch's modules."""
    if module not in MODULES:
        raise InputError(
            f"`names` gives {prefix!r} the module {module!r}; {suggestion(module, MODULES)}"
        )
    for name, place in MODULES[module].items():
        for one in _entries(f"{prefix}{name}", place):
            yield Entry(one.name, one.place, one.axes, asks=ARGUMENTS[module])


def _checked(name: str, place: str) -> str:
    """Return a place. Raises InputError if there is none of this name, or not as many of it."""
    if place not in PLACES:
        raise InputError(f"`names` gives {name!r} the place {place!r}; {suggestion(place, PLACES)}")
    if (BLOCK in name) != (BLOCK in place) or name.count(BLOCK) > 1 or name.count(HEAD) > 1:
        raise InputError(
            f"`names` gives {name!r} the place {place!r}: give {BLOCK} once in both for the number "
            f"of a block, and {HEAD} at most once for that of a head"
        )
    return place
