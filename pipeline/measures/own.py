"""Measures of the user's own: classes in a file or in an installed package, or entry points.

measures:
  my_measures.py:Skew: {}           # a file, relative to the one that names it
  some_package.module:Kurtosis: {}  # installed
  kurtosis: {}                      # an entry point of the group `ontogeny.measures`
"""

import re
from importlib.metadata import EntryPoint
from pathlib import Path

from pipeline.errors import InputError, suggestion
from pipeline.measures.base import Measure
from pipeline.measures.names import ENTRY_POINTS
from pipeline.measures.source import Source, import_installed, read_source, source_of_installed
from pipeline.schema import Variable

_NAME = re.compile(r"[a-z][a-z0-9_]*")


def class_at(named: str) -> type[Measure]:
    """Return the class at `<path>.py:<Class>` or `<package.module>:<Class>`. Raises InputError."""
    place, _, name = named.rpartition(":")
    found = _source_at(place).classes(Measure)
    if name not in found:
        raise InputError(
            f"{place}: defines no measure {name!r}, a subclass of pipeline.Measure; "
            f"{suggestion(name, found)}"
        )
    return _complete(found[name])


def entry_point_class(point: EntryPoint) -> type[Measure]:
    """Return the measure of an entry point. Raises InputError where their names differ."""
    kind = class_at(point.value)
    if kind.name != point.name:
        raise InputError(
            f"the entry point {point.name!r} of {ENTRY_POINTS} is the measure {kind.name!r} "
            f"({point.value}): give both one name"
        )
    return kind


def _source_at(place: str) -> Source:
    if place.endswith(".py"):
        if not Path(place).is_absolute():
            raise InputError(
                f"measures.{place}: a measure's file is named in a YAML file, and relative to it: "
                "elsewhere give an absolute path"
            )
        return read_source(place)
    if place.partition(".")[0] in ("pipeline", "flows", ""):
        raise InputError(f"measures.{place}: name measures of this package by their name alone")
    return source_of_installed(import_installed(place))


def _complete(kind: type[Measure]) -> type[Measure]:
    """Return a measure's class; raise InputError where its declaration is incomplete."""
    where = f"{kind.source.place if kind.source else ''}: measure {kind.__name__}"
    for attribute in ("name", "version", "default_input", "variables"):
        if not hasattr(kind, attribute):
            raise InputError(f"{where}: lacks `{attribute}`: set it in the class")
    if not isinstance(kind.name, str) or not _NAME.fullmatch(kind.name):
        raise InputError(
            f"{where}: its name {kind.name!r} is not one word of a-z, 0-9 and '_' that begins with "
            "a letter: correct `name`"
        )
    variables = kind.variables
    if not (isinstance(variables, tuple) and variables) or not all(
        isinstance(one, Variable) for one in variables
    ):
        raise InputError(f"{where}: `variables` is not a tuple of Variable: list what it computes")
    if not kind.__doc__ or kind.__doc__ == Measure.__doc__:
        raise InputError(f"{where}: has no docstring, which is its definition: write one")
    return kind
