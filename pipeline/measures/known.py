"""All measures: every `Measure` defined in a file of this folder, and those of the user's own.

    python -m pipeline.measures.known

writes what the packaged measures declare, for `pipeline.measures.declared`.
"""

import importlib
import json
import pkgutil
from collections.abc import Iterable
from dataclasses import asdict
from functools import cache
from inspect import getdoc
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import InputError
from pipeline.measures.base import Measure
from pipeline.measures.declared import FILE
from pipeline.measures.names import measures_of_entry_points, unknown_measure
from pipeline.measures.own import class_at, entry_point_class
from pipeline.writing import whole_file

# Cost of each measure, in forward passes over its input; see tests/benchmarks/measure_costs.py.
COSTS = Path(__file__).parent / "costs.yaml"


@cache  # importing all measures takes a while, and they do not change
def registry() -> dict[str, type[Measure]]:
    """Return every measure of this folder by its name. Raises TypeError for a name used twice."""
    found: dict[str, type[Measure]] = {}
    folder = Path(__file__).parent
    for module_info in pkgutil.iter_modules([str(folder)]):
        module = importlib.import_module(f"{__package__}.{module_info.name}")
        for value in vars(module).values():
            if not (isinstance(value, type) and issubclass(value, Measure)):
                continue
            # Base classes have no name; a class that another file imports is found twice.
            if hasattr(value, "name") and found.setdefault(value.name, value) is not value:
                raise TypeError(f"{value} and {found[value.name]} have one name: change it")
    return dict(sorted(found.items()))


def measure_class(name: str) -> type[Measure]:
    """Return the measure of that name, or at `<path>.py:<Class>` or `<package.module>:<Class>`.

    Raises InputError, with the nearest known name, where there is no such measure.
    """
    measures = registry()
    if name in measures:
        return measures[name]
    installed = measures_of_entry_points()
    if ":" not in name and name not in installed:
        raise unknown_measure(name, {*measures, *installed})
    kind = class_at(name) if ":" in name else entry_point_class(installed[name])
    if kind.name in measures:
        raise InputError(
            f"{name}: there is a measure {kind.name!r} in this package: give yours another `name`"
        )
    return kind


def known_measures() -> dict[str, type[Measure]]:
    """Return the measures that are known by name: this package's, and those of entry points."""
    return {
        name: measure_class(name) for name in (*registry(), *sorted(measures_of_entry_points()))
    }


def describe(measures: Iterable[type[Measure]] | None = None) -> list[dict[str, Any]]:
    """Return the declarations of measures (default: all known by name) as JSON values.

    cost: the time of the measure alone with its default parameters, over that of one forward pass
    over its input (2 x 1024 tokens where it reads weights only), in a model of the shape of
    pythia-70m (for one head in each layer where heads are changed); None where it was not timed.
    defined_in: the file or module of a measure that is not part of this package.
    """
    costs = yaml.safe_load(COSTS.read_text())
    chosen = known_measures().values() if measures is None else measures
    return [
        {
            "name": measure.name,
            "version": measure.version,
            "default_input": measure.default_input,
            "needs_heads": measure.needs_heads,
            "reference_from": measure.reference_from,
            "definition": getdoc(measure),
            "cost": costs.get(measure.name) if measure.source is None else None,
            "parameters": {name: field.default for name, field in measure.model_fields.items()},
            "variables": [asdict(variable) for variable in measure.variables],
            **({"defined_in": measure.source.place} if measure.source else {}),
        }
        for measure in chosen
    ]


def main() -> None:
    """Write what the packaged measures declare."""
    lines = ",\n".join(json.dumps(one) for one in describe(registry().values()))
    with whole_file(FILE) as draft:
        draft.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
