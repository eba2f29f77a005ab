"""Replacements for the classes that files of torch.save name, which keep their values.

A config is often an object of a class of its own. Unpickling makes objects of these classes
instead, so that no code of the file's own runs.
"""

import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

# Errors of unpickling for files that torch.save did not write, or that were damaged.
UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, TypeError, LookupError, AttributeError,
              AssertionError, ArithmeticError, struct.error)  # fmt: skip

# torch gives the refused global in the message only.
_REFUSED = re.compile(r"GLOBAL (\S+)")
_CONFIG_CLASS = re.compile(r"(.*\.)?\w*(Config|Args|Arguments|Namespace|HParams|Params|Settings)")


class ConfigValues:
    """A replacement for the class of a pickled config, which keeps its values and runs no code."""


class _NumberKind:
    """A replacement for numpy.dtype in pickles, so that numpy scalars in a config can be read."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code, self.order = str(code), "="

    def __setstate__(self, state: Sequence[Any]) -> None:
        self.order = str(state[1])


def _number(kind: _NumberKind, raw: bytes) -> Any:
    """Return a numpy scalar as a Python number. Raises ValueError for other types."""
    dtype = np.dtype(kind.code).newbyteorder(kind.order)  # pyright: ignore[reportArgumentType]
    # Only numbers: a dtype of objects would take the bytes for pointers.
    if dtype.kind not in "biuf":
        raise ValueError(f"a numpy scalar of type {kind.code}")
    return np.frombuffer(raw, dtype, count=1)[0].item()


def _path(*parts: Any) -> str:
    """Return a path in a config as a text."""
    return "/".join(str(part) for part in parts)


# numpy 2 renamed its core package, and Python 3.13 the module of paths; pickles name the one that
# wrote them.
_VALUES = (
    (_NumberKind, "numpy.dtype"),
    (_number, "numpy.core.multiarray.scalar"),
    (_number, "numpy._core.multiarray.scalar"),
    (_path, "pathlib.PosixPath"),
    (_path, "pathlib._local.PosixPath"),
)


def globals_of(file: Path) -> list[str]:
    """Return the classes and functions that a file names and that torch does not allow."""
    try:
        # torch warns about each of them, which is what we ask for.
        with warnings.catch_warnings(action="ignore"):
            return list(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    except (*UNREADABLE, pickle.UnpicklingError):
        return []  # not a zip file: torch.load raises the error


def stand_ins(file: Path) -> Iterator[tuple[Any, str]]:
    """Yield the replacement of each config class, numpy scalar and path that the file names."""
    names = globals_of(file)
    yield from ((ConfigValues, name) for name in names if _CONFIG_CLASS.fullmatch(name))
    yield from (one for one in _VALUES if one[1] in names)


def refusal_of(file: Path, error: pickle.UnpicklingError) -> str | None:
    """Return a sentence on a file that names a class or function that is not allowed, else None.

    error: that of torch.load.
    """
    found = _REFUSED.search(str(error))
    if found is None:
        return None
    if (model := _whole_model_in(file)) is not None:
        return (
            f"holds a whole model of the class {model} (torch.save(model, ...)), whose code would "
            "run: load it where that class is, and save model.state_dict()"
        )
    return (
        f"names {found[1]}, and files that could run code are refused: save its state dicts on "
        "their own"
    )


def _whole_model_in(file: Path) -> str | None:
    """Return the class of the object that a file holds instead of a dictionary; None for others.

    A pickle names the class of its own object first, and a module has `_parameters` in it.
    """
    names = globals_of(file)
    try:
        with zipfile.ZipFile(file) as archive:
            name = next(one for one in archive.namelist() if one.endswith("data.pkl"))
            operations = pickletools.genops(archive.read(name))
            first = next(one for one in operations if one[0].name not in ("PROTO", "FRAME"))
            has_parameters = any(argument == "_parameters" for _, argument, _ in operations)
    except (*UNREADABLE, StopIteration, zipfile.BadZipFile):
        return None
    is_object = first[0].name == "GLOBAL" and has_parameters
    found = str(first[1]).replace(" ", ".")
    return found if is_object and found in names else None
