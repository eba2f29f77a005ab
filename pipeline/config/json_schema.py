"""JSON schemas of strict models, with the descriptions of fields from the models' docstrings.

A docstring describes its fields as `name: text` or `name, other: text`, from the second paragraph
on or at the end of the first, or mentions them in backticks.
"""

import re
from collections.abc import Iterable
from inspect import cleandoc
from itertools import zip_longest
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_ENTRY = re.compile(r"(?:^|(?<=[.;)] ))(\w+(?:, \w+)*): ")
_SENTENCE = re.compile(r"(?<=[.:]) (?=[A-Z`])")


class _Documented(GenerateJsonSchema):
    """A generator that adds what docstrings say, and requires the tag of a member of a union."""

    def model_schema(self, schema: Any) -> dict[str, Any]:
        """Return the JSON schema of a model."""
        made, model = super().model_schema(schema), schema["cls"]
        about = field_descriptions(model)
        made["description"] = summary_of(model)
        for name, field in made.get("properties", {}).items():
            if name in about:
                field["description"] = about[name]
        # `kind` selects the member of a union: pydantic needs it in spite of its default.
        if "const" in made.get("properties", {}).get("kind", {}):
            made["required"] = ["kind", *made.get("required", [])]
        return made


def definitions_of(models: Iterable[type[BaseModel]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the definitions of models and of all models within them, and a reference to each.

    The references are by the models' names, which must differ.
    """
    pairs: list[Any] = [(model, "validation") for model in models]
    references, made = models_json_schema(pairs, schema_generator=_Documented)
    by_name = {model.__name__: reference for (model, _), reference in references.items()}
    if len(by_name) != len(pairs):
        raise TypeError("two models have one name: rename one")
    return made["$defs"], by_name


def summary_of(model: type[BaseModel]) -> str:
    """Return the first paragraph of a model's docstring, without descriptions of fields."""
    first = _paragraphs(model)[0]
    entries = _entries(first, model)
    return first[: entries[0].start()].strip() if entries else first


def field_descriptions(model: type[BaseModel]) -> dict[str, str]:
    """Return the description of each field that the docstring of the model or a base describes."""
    found: dict[str, str] = {}
    paragraphs = [text for one in reversed(model.__mro__) for text in _paragraphs(one)]
    for paragraph in paragraphs:
        entries = _entries(paragraph, model)
        for entry, after in zip_longest(entries, entries[1:]):
            text = paragraph[entry.end() : after.start() if after else None].strip()
            text = f"{text[:1].upper()}{text[1:].removesuffix(';').removesuffix('.')}."
            found |= dict.fromkeys(entry[1].split(", "), text)
    mentioned = [one for text in paragraphs for one in _SENTENCE.split(text)]
    for name in model.model_fields.keys() - found.keys():
        # Not a sentence that ends in a colon, which is split from what it announces.
        if said := [one for one in mentioned if f"`{name}`" in one and not one.endswith(":")]:
            text = said[0].removeprefix(f"`{name}`: ")
            found[name] = f"{text[:1].upper()}{text[1:]}"
    return found


def _entries(paragraph: str, model: type[BaseModel]) -> list[re.Match[str]]:
    fields = model.model_fields.keys()
    return [one for one in _ENTRY.finditer(paragraph) if fields >= set(one[1].split(", "))]


def _paragraphs(model: type) -> list[str]:
    """Return the paragraphs of a class's own docstring, without line breaks."""
    own = cleandoc(vars(model).get("__doc__") or model.__name__)
    return [" ".join(part.split()) for part in own.split("\n\n")]
