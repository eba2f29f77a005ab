"""Names of measures: in the keys of an analysis, of entry points, and misspelt ones."""

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points

from pipeline.errors import InputError, suggestion

ENTRY_POINTS = "ontogeny.measures"


def split_key(key: str) -> tuple[str, str]:
    """Return the measure that a key of `measures` names, and the input after it ("" for none).

    `skew.text` gives `skew` and `text`; `my_measures.py:Skew.text` gives `my_measures.py:Skew` and
    `text`.
    """
    place, colon, rest = key.rpartition(":")
    name, _, input_name = rest.partition(".")
    return f"{place}{colon}{name}", input_name


def measures_of_entry_points() -> dict[str, EntryPoint]:
    """Return the entry points of installed packages by name, without importing their measures.

    Raises InputError where two packages use one name.
    """
    found: dict[str, EntryPoint] = {}
    # One package may be found twice on `sys.path`: only different values are a conflict.
    for point in entry_points(group=ENTRY_POINTS):
        if found.setdefault(point.name, point).value != point.value:
            raise InputError(
                f"two installed packages have a measure {point.name!r} ({point.value} and "
                f"{found[point.name].value}): uninstall one of them"
            )
    return found


def unknown_measure(name: str, known: Iterable[str]) -> InputError:
    """Return the error for a name that no measure has, with the nearest known one."""
    return InputError(f"there is no measure {name!r}: {suggestion(name, known)}")
