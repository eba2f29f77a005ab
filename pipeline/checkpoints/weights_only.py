"""Load a file of torch.save without running any code in it.

Unpickling is weights-only: a file that would run code is refused, and the class of a config is
replaced by one without code (see `inert.py`). A file whose structure is not sound, or which would
take far more memory than its size, is refused (see `archives.py`).
"""

import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.checkpoints.archives import refuse_unsound
from pipeline.checkpoints.inert import unpickling
from pipeline.checkpoints.pickle_globals import UNREADABLE, globals_of, refusal_of
from pipeline.checkpoints.placeholders import BEGINNING, placeholder_of
from pipeline.checkpoints.shapes import refuse_inflated
from pipeline.errors import InputError
from pipeline.outside import is_out_of_memory, opened


def load_weights_only(file: Path) -> Any:
    """Return what a file holds. Raises InputError, naming the file, if it is refused or broken."""
    size = _check_structure(file)
    try:
        # A zip file is mapped, so that a file of many state dicts is not read as a whole at once.
        with unpickling(lambda: globals_of(file)):
            content = torch.load(
                file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file)
            )
        refuse_inflated(_tensors_in(content), size)
        return content
    except pickle.UnpicklingError as error:
        # torch gives the refused global in the message only.
        if reason := refusal_of(file, error):
            raise InputError(f"{file}: {reason}") from error
        raise _broken(file, error) from error
    except UNREADABLE as error:
        if is_out_of_memory(error) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise _broken(file, error) from error


def _check_structure(file: Path) -> int:
    """Return the size of a file. Raises InputError if it is not sound, see `archives`."""
    with opened(file, InputError) as stream:
        size = os.fstat(stream.fileno()).st_size
        if found := placeholder_of(stream.read(BEGINNING)):
            raise InputError(f"{file}: {found}")
        stream.seek(0)
        try:
            refuse_unsound(stream, size)
        except ValueError as error:
            raise _broken(file, error) from error
    return size


def _tensors_in(content: Any, name: str = "it", levels: int = 4) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in a file's dictionaries and lists, each with its name."""
    if isinstance(content, Tensor):
        yield name, content
    elif levels and isinstance(content, Mapping):
        for key, value in content.items():
            yield from _tensors_in(value, str(key), levels - 1)
    elif levels and isinstance(content, list | tuple):
        for value in content:
            yield from _tensors_in(value, name, levels - 1)


def _broken(file: Path, error: Exception) -> InputError:
    reason = (str(error).splitlines() or [type(error).__name__])[-1]
    return InputError(f"{file}: is truncated or no file of torch.save ({reason}): copy it again")
