"""Pages about the YAML files: every field, made from their JSON schemas; and the presets."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.analysis.file_schemas import analysis_schema, training_schema
from pipeline.config import PRESETS
from pipeline.config.suites import suites
from pipeline.training.config import PRESETS as TRAINING_PRESETS

ANALYSIS = """# Analysis file

One YAML file describes one analysis; `ontogeny analyze FILE` carries it out. Unknown keys are
refused. Relative paths are relative to the file. `ontogeny schema` prints what this page is made
from ([for editors](../editors.md)).
"""

TRAINING = """# Training file

One YAML file describes one training run of a small model, or a sweep of them;
`ontogeny train FILE` carries it out ([how to](../training.md)). `ontogeny schema training` prints
what this page is made from ([for editors](../editors.md)).
"""

MEASURES = """
## Measures {: #measures-and-their-parameters }

A measure without parameters has no value, as in `copying:`; measures may also be given as a list
of names. On another input than its own the key is `<measure>.<input>`. A measure of your own is
`<path>.py:<Class>` ([how to write one](../writing-a-measure.md)). Besides its own parameters, each
takes `select` (see [Selection](#selection)) and `float16`, a list of its variables to store in half
of the space.

| measure | reads | parameters |
| --- | --- | --- |"""

PRESET_PAGE = """# Presets

Packaged files, which are given by their name. Copy one to change it.

## Analyses

`ontogeny analyze --preset NAME` carries one out; its paths are relative to the working folder.
"""

SUITES = """## Analyses of public suites

`ontogeny presets NAME` describes one ([table](../hub.md#public-suites)). The analysis that
is shown is that of a suite's first member; those of others have another address, and larger models
fewer measures.
"""

TRAINING_RUNS = """## Training runs

`ontogeny train NAME` carries one out.
"""

_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def analysis() -> str:
    """Return the page of the fields of an analysis."""
    schema = analysis_schema()
    return "\n".join([ANALYSIS, *_sections(schema), MEASURES, *_measures(schema["$defs"]), ""])


def training() -> str:
    """Return the page of the fields of a training run."""
    return "\n".join([TRAINING, *_sections(training_schema()), ""])


def presets() -> str:
    """Return the page of the packaged files, and of the analyses of public suites."""
    pages = [PRESET_PAGE, *_files(PRESETS), SUITES, *_suites()]
    return "\n".join([*pages, TRAINING_RUNS, *_files(TRAINING_PRESETS)])


def _suites() -> Iterator[str]:
    for suite in suites():
        names = ", ".join(f"`{name}`" for name in suite.members)
        yield f"### {suite.suite}\n\n{suite.about}\n\n{names}\n"
        if suite.refused:
            yield f"Not analysed: {suite.refused}.\n"
            continue
        content = yaml.safe_dump(suite.content(next(iter(suite.members))), sort_keys=False)
        yield f"```yaml\n{content.strip()}\n```\n"


def _files(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*.yaml")):
        yield f"### {path.stem} {{: #{folder.parent.name}-{path.stem} }}\n"
        yield f"```yaml\n{path.read_text('utf-8').strip()}\n```\n"


def _sections(schema: Mapping[str, Any]) -> Iterator[str]:
    yield from _fields(schema)
    for name, part in schema["$defs"].items():
        if not name.startswith("measure."):
            yield f"\n## {name}\n"
            yield from _fields(part)


def _fields(part: Mapping[str, Any]) -> Iterator[str]:
    yield f"{part['description']}\n"
    for name, field in part["properties"].items():
        default = _default(field)
        told = f"default {default}" if default else ""
        necessity = "required" if name in part.get("required", []) else told
        yield f"`{name}`: {', '.join(filter(None, [value_of(field, name), necessity]))}"
        yield f":   {field.get('description', '')}\n"


def _measures(definitions: Mapping[str, Any]) -> Iterator[str]:
    for name, part in definitions.items():
        if name.startswith("measure."):
            title = part["title"]
            own = {k: v for k, v in part["properties"].items() if k not in ("select", "float16")}
            given = "; ".join(f"`{k}`: {value_of(v, k)}, {_default(v)}" for k, v in own.items())
            reads = part["description"].rpartition("Reads ")[2].removesuffix(".")
            yield _row(f"[`{title}`](../measures.md#{title})", reads, given)


def value_of(field: Mapping[str, Any], name: str = "") -> str:
    """Return in words and links what values a field of a schema may have."""
    if "$ref" in field:
        target = field["$ref"].rpartition("/")[2]
        return f"[{target}](#{target.lower()})"
    if "const" in field or "enum" in field:
        return " or ".join(f"`{one}`" for one in field.get("enum", [field.get("const")]))
    if name in ("measures", "sweep"):
        return "see below" if name == "measures" else "lists by field"
    if some := field.get("anyOf") or field.get("oneOf"):
        return " or ".join(dict.fromkeys(value_of(one) for one in some))
    return _of_type(field)


def _of_type(field: Mapping[str, Any]) -> str:
    kind = field.get("type", "any value")
    if kind == "array":
        parts = field.get("prefixItems")
        return f"[{', '.join(map(value_of, parts))}]" if parts else f"list of {_items(field)}"
    if kind == "object":
        inner = field.get("additionalProperties")
        return f"by name: {value_of(inner)}" if isinstance(inner, dict) else "mapping"
    bounds = [f"{sign} {field[key]:,}" for key, sign in _BOUNDS.items() if key in field]
    return " ".join([{"string": "text", "null": "`null`"}.get(kind, kind), *bounds])


def _items(field: Mapping[str, Any]) -> str:
    return value_of(field["items"]) if "items" in field else "values"


def _default(field: Mapping[str, Any]) -> str:
    """Return a default in backticks; nothing for a mapping, whose fields have their own."""
    if "default" not in field or isinstance(field["default"], dict):
        return ""
    default = field["default"]
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
