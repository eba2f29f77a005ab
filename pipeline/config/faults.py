"""Validation of settings: strict models, and the sentences about their faults."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from pipeline.addresses import faults_within
from pipeline.errors import InputError, suggestion

Model = TypeVar("Model", bound=BaseModel)

MOST_FAULTS = 12
_MOST_SHOWN = 80  # characters of a value
_LARGEST = 2**63 - 1
_TRUTHS = {"true", "false", "yes", "no", "on", "off"}


class Strict(BaseModel):
    """A frozen pydantic model that rejects unknown keys, so that no misspelt key is ignored.

    Booleans and texts are no numbers, nor numbers booleans, and numbers are finite. A whole number
    may be written as a float (`1e5`). No text holds the secret of an address.
    """

    # Inputs are hidden in pydantic's own messages, which other code may print.
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True
    )

    @model_validator(mode="before")
    @classmethod
    def _can_be_kept(cls, data: Any) -> Any:
        for place, sentence in faults_within(data):
            raise ValueError(f"{place}: {sentence}")
        return data

    @model_validator(mode="before")
    @classmethod
    def _numbers_are_numbers(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        types = {name: field.annotation for name, field in cls.model_fields.items()}
        return {
            key: _guarded(types[key], value) if key in types else value
            for key, value in data.items()
        }


@dataclass(frozen=True)
class _Refused:
    """A value that pydantic would convert, and which it refuses in this form."""

    value: Any

    def __repr__(self) -> str:
        return shown(self.value)


def validated(model: type[Model], content: Mapping[str, Any], where: str) -> Model:
    """Return `content` as a model. Raises InputError with a sentence about each of its faults."""
    for place, sentence in faults_within(content):
        raise InputError(f"{where}: {place}: {sentence}")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise together(where, faults_of(model, error)) from None


def together(where: str, faults: list[str]) -> InputError:
    """Return one error about all faults: one sentence, or a line for each of them."""
    if len(faults) == 1:
        return InputError(f"{where}: {faults[0]}")
    more = len(faults) - MOST_FAULTS
    shown = [f"  {fault}" for fault in faults[:MOST_FAULTS]]
    return InputError(
        f"{where}: {len(faults)} faults", *shown, *([f"  and {more} more"] if more > 0 else [])
    )


def faults_of(model: type[BaseModel], error: ValidationError) -> list[str]:
    """Return a sentence about each fault, in which its key is named."""
    found = error.errors(include_url=False)
    # A misspelt key is the cause, and the key that is missing instead, its consequence.
    unknown = {
        (*one["loc"][:-1], _nearest(model, one["loc"]))
        for one in found
        if one["type"] == "extra_forbidden"
    }
    kept = [one for one in found if one["type"] != "missing" or tuple(one["loc"]) not in unknown]
    # A list whose items are all faulty is not too short as well.
    parents = {one["loc"][:-1] for one in kept}
    kept = [one for one in kept if one["type"] != "too_short" or one["loc"] not in parents]
    return list(dict.fromkeys(_sentence(model, one) for one in kept))


def _sentence(model: type[BaseModel], fault: Any) -> str:
    place = ".".join(str(part)[:_MOST_SHOWN] for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = _keys_at(model, fault["loc"][:-1])
        return f"unknown key {place!r}; {suggestion(str(fault['loc'][-1]), known)}"
    if fault["type"] == "missing":
        return f"the key {place!r} is missing: {fault['msg'].lower()}"
    if fault["type"] == "value_error":
        sentence = fault.get("ctx", {}).get("error", fault["msg"])
        return f"{place}: {sentence}" if place else str(sentence)
    return f"{place}: {fault['msg'][0].lower()}{fault['msg'][1:]}, found {shown(fault['input'])}"


def shown(value: Any) -> str:
    """Return a value as it was given; the beginning of a long one."""
    if isinstance(value, int) and abs(value) > _LARGEST:
        return "a number of more than 19 digits"  # Python refuses to write very long ones
    # Not the whole of a large value, which would take long to write: its size says enough.
    if isinstance(value, dict | list | tuple) and len(value) > _MOST_SHOWN:
        return f"{len(value):,} values"
    try:
        text = repr(value)
    except RecursionError:
        return "values within values"
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def _guarded(annotation: Any, value: Any) -> Any:
    """Return a value, or one that is refused if it is no number or boolean but would become one."""
    if type(value) not in (bool, str, int, float, list, tuple):
        return value
    types = set(_types(annotation))
    if types & {Any, object}:
        return value
    if isinstance(value, list | tuple):
        inner = tuple(part for one in types for part in get_args(one) if part is not Ellipsis)
        inner = Union[inner] if inner else Any  # noqa: UP007 (a tuple of types)
        return [_guarded(inner, element) for element in value]
    if not types & {int, float, bool}:
        return value
    kind = type(value)
    if kind is int and abs(value) > _LARGEST:
        return _Refused(value)
    is_number = kind in (int, float) and types & {int, float}
    is_truth = kind is str and bool in types and value.lower() in _TRUTHS
    return value if kind in types or is_number or is_truth else _Refused(value)


def _types(annotation: Any) -> Iterator[Any]:
    """Yield the types that an annotation allows."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _types(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for part in get_args(annotation):
            yield from _types(part)
    elif origin is Literal:
        yield from map(type, get_args(annotation))
    else:
        yield annotation


def _nearest(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    """Return the valid key that an unknown one is probably meant to be; "" if there is none."""
    quoted = suggestion(str(location[-1]), _keys_at(model, location[:-1]))
    return quoted.partition("did you mean '")[2].removesuffix("'?")


def _keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that are valid at the location of an unknown one."""
    # pydantic's location of an error in a discriminated union holds the tag (`kind`), which is no
    # field: such a part selects a member of the union instead.
    here = [model]
    for part in location:
        tagged = [one for one in here if "kind" in one.model_fields and part == _kind(one)]
        below = [f.annotation for one in here if (f := one.model_fields.get(str(part)))]
        here = tagged or [inner for annotation in below for inner in _models_in(annotation)] or here
    return sorted({name for one in here for name in one.model_fields})


def _kind(model: type[BaseModel]) -> str:
    return model.model_fields["kind"].default


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the models within a field's type, such as the members of a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
