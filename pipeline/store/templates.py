"""The variables of a group: which there are, of what shape, and what readers are told of them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.errors import InputError
from pipeline.schema import DIMENSIONS, Values, Variable
from pipeline.store.fingerprint import plain_json

# What every group carries for each row beside its variables, along "step".
LABELS: dict[str, type | str] = {
    "step": "int64",
    "tokens_seen": "float64",
    "uri": str,
    "digest": str,
}

# What readers are told of coordinates, beside the names of all and the meanings of dimensions.
_LONG_NAMES = {"step": "training step"}
_UNITS = {"step": "steps", "tokens_seen": "tokens", "lag": "tokens"}
_MEANINGS = {
    **DIMENSIONS,
    "tokens_seen": "tokens trained on when the checkpoint was saved; NaN where unknown",
    "uri": "where the checkpoint was read",
    "digest": "digest of the checkpoint's weights",
}

# Half a unit in the last of float16's 11 bits. What a row lost by it stands in its header.
HALF = "float16: rounded by at most 0.002 below 8, 0.004 below 16, 0.0005 of the value above"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Template:
    """The variables of one group (one measure on one input) for one fingerprint variant.

    coordinates: a 1-D array of integers or strings for every dimension but "step".
    attributes: JSON (definition, version, parameters, the input's name and digest, ...).
    half: the float32 variables that are stored as float16, in half of the space (see `HALF`), and
    read as float32. They belong to the variant, so its fingerprint must cover them.
    """

    group: str
    variant: str
    variables: tuple[Variable, ...]
    coordinates: Mapping[str, np.ndarray]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    half: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        checked_name(self.group, "group")
        if missing := set(self.dims) - set(self.coordinates):
            raise ValueError(f"group {self.group!r}: no coordinates for {sorted(missing)}")
        check_half(self.group, self.variables, self.half)

    @property
    def dims(self) -> list[str]:
        """The sorted dimensions of its variables, without "step"."""
        return sorted({dim for variable in self.variables for dim in variable.dims[1:]})

    def shape(self, variable: Variable) -> tuple[int, ...]:
        """Return the shape of one row of a variable."""
        return tuple(len(self.coordinates[dim]) for dim in variable.dims[1:])

    def as_json(self) -> dict[str, Any]:
        """Return what is stored of it. Readers need no more to open its group."""
        described = ("dims", "dtype", "unit", "definition", "references")
        return plain_json(
            {
                "attributes": self.attributes,
                "coordinates": {dim: self.coordinates[dim] for dim in self.dims},
                "variables": {
                    variable.name: {key: getattr(variable, key) for key in described}
                    | ({"stored_as": HALF} if variable.name in self.half else {})
                    for variable in self.variables
                },
            }
        )


# What is stored of a template


def shape_of(template: Mapping[str, Any], name: str) -> tuple[int, ...]:
    """Return the shape of one row of a variable."""
    dims = template["variables"][name]["dims"]
    return tuple(len(template["coordinates"][dim]) for dim in dims[1:])


def dtype_of(template: Mapping[str, Any], name: str) -> np.dtype:
    """Return the dtype that a variable is stored with."""
    about = template["variables"][name]
    return np.dtype("float16" if about.get("stored_as") else about["dtype"])


def group_attributes(template: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a group, from its stored template.

    Older stores call the reference checkpoint's numbers `reference`, as they do citations.
    """
    attributes = dict(template["attributes"])
    if "reference" in attributes:
        attributes["reference_values"] = attributes.pop("reference")
    return attributes


def variable_attributes(name: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a variable, from its entry in a stored template.

    `units` and `long_name` are those of the CF conventions, which label xarray's plots. There is no
    `standard_name`: CF's table has none for what is measured here.

    Older stores call the citation `reference`: the word for the reference checkpoint's numbers.
    """
    renamed = {"references": about["reference"], **about} if "reference" in about else about
    shown = ("unit", "definition", "references", "stored_as")
    attributes = {key: renamed[key] for key in shown if key in renamed}
    return {"long_name": _long_name(name), "units": renamed["unit"], **attributes}


def coordinate_attributes(name: str) -> dict[str, Any]:
    """Return the attributes of what labels the rows, or a dimension of them.

    Indices, such as that of a layer, have no unit.
    """
    attributes: dict[str, Any] = {"long_name": _LONG_NAMES.get(name) or _long_name(name)}
    if name in _UNITS:
        attributes["units"] = _UNITS[name]
    if name in _MEANINGS:
        attributes["definition"] = _MEANINGS[name]
    return attributes


def check_half(group: str, variables: Iterable[Variable], half: frozenset[str]) -> None:
    """Raise InputError where something else than float32 variables is to be stored as float16."""
    single = {variable.name for variable in variables if variable.dtype == "float32"}
    if wrong := half - single:
        raise InputError(
            f"group {group!r}: {sorted(wrong)} cannot be stored as float16, only its "
            f"float32 variables can: {', '.join(sorted(single)) or 'it has none'}"
        )


def checked_name(name: str, what: str) -> str:
    """Return `name`, if it can be part of a key on any storage. Raises InputError."""
    if not _NAME.fullmatch(name):
        raise InputError(f"{what} {name!r}: use letters, digits, '_', '.' and '-' only")
    return name


def check_same_variables(group: str, there: Any, wanted: Any, uri: str) -> None:
    """Raise InputError where two stored templates of a variant have other variables."""
    there, wanted = _fixed(there), _fixed(wanted)
    for key in sorted({*there, *wanted}):
        if there.get(key) != wanted.get(key):
            raise InputError(
                f"{uri}: the store was made by another analysis: {key} of group {group!r} is "
                f"{_shortened(there.get(key))} there, expected {_shortened(wanted.get(key))}; "
                "choose another store"
            )


def fitted(where: str, template: Mapping[str, Any], values: Values) -> dict[str, np.ndarray]:
    """Return the values of a row as they will be stored.

    Raises ValueError where they are not those that the template declares, in its shapes and dtypes.
    """
    expected = set(template["variables"])
    if expected != set(values):
        raise ValueError(
            f"{where}: expected the variables {sorted(expected)}, found {sorted(values)}: "
            "the row would be incomplete; make compute() return what the measure declares"
        )
    return {name: _fitted(where, name, template, values[name]) for name in template["variables"]}


def rounding(stored: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> dict[str, float]:
    """Return the largest difference that storing as float16 made, for each variable so stored."""
    with np.errstate(invalid="ignore"):  # of infinities, which stay what they are
        lost = {
            name: np.abs(np.asarray(values[name], np.float64) - kept)
            for name, kept in stored.items()
            if kept.dtype == np.float16
        }
    return {name: float(np.max(d, where=np.isfinite(d), initial=0)) for name, d in lost.items()}


def _fitted(where: str, name: str, template: Mapping[str, Any], value: Any) -> np.ndarray:
    value, shape, dtype = np.asarray(value), shape_of(template, name), dtype_of(template, name)
    if value.shape != shape:
        raise ValueError(
            f"{where}: {name!r} has shape {value.shape}, expected {shape}: make compute() return "
            "the declared dims"
        )
    castable = np.can_cast(value.dtype, dtype, "same_kind")
    with np.errstate(over="ignore"):
        stored = value.astype(dtype) if castable else None
    if stored is None or (stored.dtype.kind == "i" and not np.array_equal(stored, value)):
        raise ValueError(
            f"{where}: {name!r} has dtype {value.dtype}, expected {dtype}: its values would "
            "change; declare the dtype that compute() returns"
        )
    if dtype == np.float16 and (np.isfinite(value) & ~np.isfinite(stored)).any():
        raise ValueError(
            f"{where}: {name!r} reaches {np.nanmax(np.abs(value)):.6g}, and float16 ends at 65504: "
            "store it as float32"
        )
    return stored


def _long_name(name: str) -> str:
    return name.replace("_", " ")


def _fixed(template: Any) -> dict[str, Any]:
    """Return what may never change within a variant: the variables and their coordinates."""
    variables = {
        name: [about["dims"], about["dtype"], about.get("stored_as")]
        for name, about in template["variables"].items()
    }
    return {"variables": variables, **template["coordinates"]}


def _shortened(value: Any) -> str:
    text = f"{len(value)} values {value}" if isinstance(value, list) else str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
