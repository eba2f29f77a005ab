"""The arrays of a measure: their names, shapes and encoding.

Every variable is a Zarr v3 array with one whole chunk per row, so that no two workers ever write
the same chunk, and with a checksum in each chunk, so that a flipped bit raises an error when read.
"""

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store as ZarrStore
from zarr.codecs import BloscCodec, Crc32cCodec

from pipeline.errors import InputError
from pipeline.schema import Variable
from pipeline.store.fingerprint import plain_json

NO_STEP = -1

# The arrays that every group holds beside its variables, one value per row: dtype and fill value.
ROW_ARRAYS: dict[str, tuple[Any, Any]] = {
    "step": ("int64", NO_STEP),
    "tokens_seen": ("float64", float("nan")),
    "uri": (str, ""),
    "digest": (str, ""),
}

# Half a unit in the last of float16's 11 bits. Each marker holds the largest error of its row.
HALF = "float16: rounded by at most 0.002 below 8, 0.004 below 16, 0.0005 of the value above"
_FILLS = {"f": float("nan"), "i": 0}  # never read: every committed row has all of its chunks
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Template:
    """The arrays of one group (one measure on one input) for one fingerprint variant.

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
        """Return the JSON that is stored in the group's attributes, enough to open the group."""
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


def group_attributes(template: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a group, from its stored template.

    Older stores call the reference checkpoint's numbers `reference`, as they do citations.
    """
    attributes = dict(template["attributes"])
    if "reference" in attributes:
        attributes["reference_values"] = attributes.pop("reference")
    return attributes


def variable_attributes(about: Mapping[str, Any]) -> dict[str, str]:
    """Return the attributes of a variable, from its entry in a stored template.

    Older stores call the citation `reference`: the word for the reference checkpoint's numbers.
    """
    renamed = {"references": about["reference"], **about} if "reference" in about else about
    shown = ("unit", "definition", "references", "stored_as")
    return {key: renamed[key] for key in shown if key in renamed}


def check_half(group: str, variables: Iterable[Variable], half: frozenset[str]) -> None:
    """Raise InputError where variables other than float32 ones are to be stored as float16."""
    single = {variable.name for variable in variables if variable.dtype == "float32"}
    if wrong := half - single:
        raise InputError(
            f"group {group!r}: {sorted(wrong)} cannot be stored as float16, only its "
            f"float32 variables can: {', '.join(sorted(single)) or 'it has none'}"
        )


def require_arrays(root: zarr.Group, template: Template, uri: str) -> None:
    """Create the missing arrays of a template. Raises InputError where other arrays exist."""
    group = root.require_group(template.group)
    found, wanted = group.get(template.variant), template.as_json()
    if isinstance(found, zarr.Group) and "template" in found.attrs:
        _check_same_arrays(template.group, found.attrs["template"], wanted, uri)
        # Definitions may have been reworded; arrays and coordinates are the same.
        if found.attrs["template"] != wanted:
            found.update_attributes({"template": wanted})
    else:
        _create_arrays(group.require_group(template.variant), template, wanted)
    # Last, because a group counts as existing once it has a current variant.
    if "current" not in group.attrs:
        group.update_attributes({"current": template.variant})


def arrays_of(group: zarr.Group) -> dict[str, zarr.Array]:
    """Return all arrays of a variant, those of `ROW_ARRAYS` first."""
    arrays = dict(group.arrays())
    return {name: arrays[name] for name in (*ROW_ARRAYS, *sorted(set(arrays) - set(ROW_ARRAYS)))}


def consolidate(folder: ZarrStore) -> None:
    """Consolidate the metadata of a folder, so that opening it takes one request."""
    with warnings.catch_warnings():
        # Consolidated metadata are not yet part of the specification of Zarr v3, as zarr-python
        # warns each time. Readers here that ignore them still work, with more requests.
        warnings.filterwarnings("ignore", "Consolidated metadata")
        warnings.filterwarnings("ignore", "Object at .*[.]partial")  # of a writer that was killed
        zarr.consolidate_metadata(folder, zarr_format=3)


def checked_name(name: str, what: str) -> str:
    """Return `name` if it can be part of a key on any storage; raise InputError otherwise."""
    if not _NAME.fullmatch(name):
        raise InputError(f"{what} {name!r}: use letters, digits, '_', '.' and '-' only")
    return name


def _create_arrays(target: zarr.Group, template: Template, wanted: dict[str, Any]) -> None:
    """Create the arrays of a variant, and store its template last.

    A group without a template was left incomplete by a process that was killed.
    """
    for name, (dtype, fill) in ROW_ARRAYS.items():
        _create_array(target, name, (), dtype, fill, ("step",), {})
    for variable in template.variables:
        dtype = np.dtype("float16" if variable.name in template.half else variable.dtype)
        about = wanted["variables"][variable.name]
        attributes = variable_attributes(about)
        shape, fill = template.shape(variable), _FILLS[dtype.kind]
        _create_array(target, variable.name, shape, dtype, fill, variable.dims, attributes)
    target.update_attributes({"template": wanted})


def _create_array(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    dtype: Any,
    fill: Any,
    dims: tuple[str, ...],
    attributes: dict[str, Any],
) -> None:
    # Shuffled bytes: exponents of neighbouring floats are alike, mantissas are noise. Strings have
    # no fixed width to shuffle by.
    compress = [] if dtype is str else [BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")]
    group.create_array(
        name,
        shape=(0, *shape),  # `Store.reserve` makes room for rows
        chunks=(1, *(max(size, 1) for size in shape)),  # 0 in a model without layers
        dtype=dtype,
        fill_value=fill,
        dimension_names=dims,
        compressors=[*compress, Crc32cCodec()],
        attributes=attributes,
        overwrite=name in group,  # left by a process that was killed before the template was stored
    )


def _check_same_arrays(group: str, there: Any, wanted: Any, uri: str) -> None:
    there, wanted = _fixed(there), _fixed(wanted)
    for key in sorted({*there, *wanted}):
        if there.get(key) != wanted.get(key):
            raise InputError(
                f"{uri}: the store was made by another analysis: {key} of group {group!r} is "
                f"{_shortened(there.get(key))} there, expected {_shortened(wanted.get(key))}; "
                "choose another store"
            )


def _fixed(template: Any) -> dict[str, Any]:
    """Return the parts of a template that never change within a variant: arrays and coordinates."""
    arrays = {
        name: [about["dims"], about["dtype"], about.get("stored_as")]
        for name, about in template["variables"].items()
    }
    return {"variables": arrays, **template["coordinates"]}


def _shortened(value: Any) -> str:
    text = f"{len(value)} values {value}" if isinstance(value, list) else str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
