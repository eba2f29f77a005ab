"""The classes and functions that files of torch.save name, and what to say of those refused."""

import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from io import BytesIO
from pathlib import Path

import torch

# Errors of unpickling for files that torch.save did not write, or that were damaged.
UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, TypeError, LookupError, AttributeError,
              AssertionError, ArithmeticError, struct.error)  # fmt: skip

# torch gives the refused global in the message only.
_REFUSED = re.compile(r"GLOBAL (\S+)")


def globals_of(file: Path | BytesIO) -> list[str]:
    """Return the classes and functions that a file names and that torch does not allow."""
    try:
        # torch warns about each of them, which is what we ask for.
        with warnings.catch_warnings(action="ignore"):
            return list(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    except (*UNREADABLE, pickle.UnpicklingError):
        return []  # not a zip file: torch.load raises the error


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
