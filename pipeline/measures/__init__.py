"""The measures: every file in this folder is one, found by being there."""

import importlib
import pkgutil
from dataclasses import asdict
from functools import cache
from inspect import getdoc
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import InputError, suggestion
from pipeline.measures.base import Measure

# What each measure costs, in forward passes over its input; see tests/benchmarks/measure_costs.py.
COSTS = Path(__file__).parent / "costs.yaml"


@cache
def registry() -> dict[str, type[Measure]]:
    """Every measure of this folder by its name."""
    found: dict[str, type[Measure]] = {}
    for module_info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{module_info.name}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Measure) and hasattr(value, "name"):
                found[value.name] = value
    return dict(sorted(found.items()))


def measure_class(name: str) -> type[Measure]:
    """The measure of that name, or an error that suggests the nearest one."""
    measures = registry()
    if name not in measures:
        raise InputError(f"there is no measure {name!r}: {suggestion(name, measures)}")
    return measures[name]


def describe() -> list[dict[str, Any]]:
    """What every measure declares, as JSON values: for the documentation and for programs.

    cost: the time of the measure alone with its default parameters, over that of one forward pass
    over its input (2 x 1024 tokens where it reads weights only), in a model of the shape of
    pythia-70m (of one head in each layer where heads are changed); None where it was not timed.
    """
    costs = yaml.safe_load(COSTS.read_text())
    return [
        {
            "name": measure.name,
            "version": measure.version,
            "default_input": measure.default_input,
            "reference_from": measure.reference_from,
            "definition": getdoc(measure),
            "cost": costs.get(measure.name),
            "parameters": {name: field.default for name, field in measure.model_fields.items()},
            "variables": [asdict(variable) for variable in measure.variables],
        }
        for measure in registry().values()
    ]
