"""Check the settings of a model in a file: which there are, and of which types."""

import math
import reprlib
from collections.abc import Collection, Mapping
from typing import Any

from pipeline.errors import suggestion
from pipeline.outside import is_whole

_MOST = 2**31  # of a model's sizes; products of two of them are still exact
_MOST_VALUES = 1_000_000  # in a config; a file may name a list many times in another one
_LONGEST = 60  # characters of a value in a message

# Does not spell a value out beyond what is shown: see _MOST_VALUES.
_SPELLING = reprlib.Repr()
_SPELLING.maxstring = _SPELLING.maxother = _SPELLING.maxlong = _LONGEST


def whole(settings: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """Return a size. Raises ValueError if it is missing or no positive integer."""
    value = settings.get(name)
    if value is None and default is not None:
        return default
    if not is_whole(value, least=1, most=_MOST):
        raise ValueError(f"says {name} = {shown_value(value)}, expected a positive integer")
    return value


def number(settings: Mapping[str, Any], name: str, default: float | None = None) -> float:
    """Return a positive number. Raises ValueError if it is missing or something else."""
    value = settings.get(name)
    if value is None and default is not None:
        return default
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    found = float(value) if value is not None and is_number else math.nan
    if math.isfinite(found) and found > 0:
        return found
    raise ValueError(f"says {name} = {shown_value(value)}, expected a positive number")


def flag(settings: Mapping[str, Any], name: str, default: bool) -> bool:
    """Return a setting that is true or false. Raises ValueError for another value."""
    value = settings.get(name, default)
    if not isinstance(value, bool):
        raise ValueError(f"says {name} = {shown_value(value)}, expected true or false")
    return value


def divided(whole: int, name: str, parts: int, of: str) -> int:
    """Return a size divided by another. Raises ValueError if a remainder is left."""
    if whole % parts:
        raise ValueError(f"says {name} = {whole}, which {of} = {parts} does not divide")
    return whole // parts


def refuse_unknown(settings: Mapping[str, Any], known: Collection[str], model: str) -> None:
    """Raise ValueError for a setting that the model does not have: it may change what it computes.

    A setting that is switched off (null or false) is none.
    """
    for name, value in settings.items():
        if name not in known and value is not None and value is not False:
            raise ValueError(
                f"says {name} = {shown_value(value)}, which {model} does not have "
                f"({suggestion(name, known)}): this is another model, and cannot be read as one"
            )


def is_plain(value: Any) -> bool:
    """Return whether a value is one that JSON has, of a config's size: no dtype or object."""
    waiting, count = [value], 0
    while waiting:
        one, count = waiting.pop(), count + 1
        if count > _MOST_VALUES:
            return False
        if isinstance(one, Mapping):
            if not all(isinstance(name, str) for name in one):
                return False
            waiting.extend(one.values())
        elif isinstance(one, list | tuple):
            waiting.extend(one)
        elif one is not None and not isinstance(one, str | int | float | bool):
            return False
    return True


def shown_value(value: Any) -> str:
    """Return a value for a message, the first characters of it."""
    return "nothing" if value is None else _SPELLING.repr(value)[:_LONGEST]
