"""JSON schemas of the YAML files of an analysis and of a training run, for editors.

They say what the files may hold as far as a schema can: that inputs exist, that sizes fit together
and the like is checked when a file is read.
"""

import re
from collections.abc import Mapping
from typing import Any

from pipeline.config.analysis import Analysis, GroupOptions
from pipeline.config.json_schema import DIALECT, definitions_of, field_descriptions
from pipeline.config.saved_model import SavedModel
from pipeline.measures import known_measures
from pipeline.measures.base import Measure
from pipeline.training.config import Training
from pipeline.training.sweep import SWEEP

_OWN = r"^.+:[^:]+$"  # a measure of the user's own, at `<path>.py:<Class>` or `<module>:<Class>`
_OWN_MEASURE = {"type": ["object", "null"], "description": "A measure of your own."}


def analysis_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of an analysis, with every measure known by name."""
    measures = known_measures()
    definitions, references = definitions_of([Analysis, GroupOptions, SavedModel])
    definitions |= {f"measure.{name}": _measure(kind) for name, kind in measures.items()}
    options = definitions.pop("GroupOptions")["properties"]
    for name, kind in measures.items():
        definitions[f"measure.{name}"]["properties"] |= _options(options, kind)
    whole = definitions.pop("Analysis")
    about = field_descriptions(Analysis)
    whole["properties"]["model"] = {**references["SavedModel"], "description": about["model"]}
    whole["properties"]["measures"] = {
        "title": "Measures",
        "description": about["measures"],
        "anyOf": [_by_name(measures), _listed(measures)],
    }
    return {"$schema": DIALECT, **whole, "$defs": definitions}


def training_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a training run, or of a sweep of them."""
    definitions, _ = definitions_of([Training])
    whole = definitions.pop("Training")
    keys = sorted(set(_dotted(whole, definitions)))
    whole["properties"][SWEEP] = {
        "title": "Sweep",
        "description": "Values of any field, whose keys are joined by dots: a run for each "
        "combination.",
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"enum": keys},
        "additionalProperties": {"type": "array", "minItems": 1},
    }
    return {"$schema": DIALECT, **whole, "$defs": definitions}


def _measure(kind: type[Measure]) -> dict[str, Any]:
    definitions, _ = definitions_of([kind])
    made = definitions.pop(kind.__name__)
    if definitions:
        raise TypeError(f"{kind.name} has a model as a parameter: add it to the definitions")
    reads = f"the input `{kind.default_input}`" if kind.default_input else "weights only"
    for field in made.get("properties", {}).values():
        field.setdefault("description", f"See the definition of `{kind.name}`.")
    described = f"{made['description']} Reads {reads}."
    return {"properties": {}, **made, "title": kind.name, "description": described}


def _options(options: Mapping[str, Any], kind: type[Measure]) -> dict[str, Any]:
    """Return the options of every measure; only its own variables can be stored as float16."""
    names = [one.name for one in kind.variables if one.dtype == "float32"]
    of_items = {"items": {"enum": names}} if names else {"maxItems": 0}
    return {**options, "float16": {**options["float16"], **of_items}}


def _by_name(measures: Mapping[str, type[Measure]]) -> dict[str, Any]:
    given = {
        name: {"anyOf": [{"$ref": f"#/$defs/measure.{name}"}, {"type": "null"}]}
        for name in measures
    }
    on_inputs = {
        rf"^{re.escape(name)}\..+$": given[name]
        for name, kind in measures.items()
        if kind.default_input is not None
    }
    return {
        "type": "object",
        "minProperties": 1,
        "properties": given,
        "patternProperties": {**on_inputs, _OWN: _OWN_MEASURE},
        "additionalProperties": False,
    }


def _listed(measures: Mapping[str, type[Measure]]) -> dict[str, Any]:
    on_inputs = "|".join(
        re.escape(name) for name, kind in measures.items() if kind.default_input is not None
    )
    items = [{"enum": list(measures)}, {"pattern": rf"^(?:{on_inputs})\..+$"}, {"pattern": _OWN}]
    return {
        "type": "array",
        "minItems": 1,
        "uniqueItems": True,
        "items": {"type": "string", "anyOf": items},
    }


def _dotted(part: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the keys of a mapping and of those within it, joined by dots."""
    found: list[str] = []
    for name, field in part.get("properties", {}).items():
        found.append(f"{prefix}{name}")
        for one in (field, *field.get("oneOf", [])):
            inner = definitions.get(one.get("$ref", "").rpartition("/")[2], {})
            found += _dotted(inner, definitions, f"{prefix}{name}.")
    return found
