"""Replacements, without code, of the classes that files of torch.save name for their settings.

Checkpoints often hold the settings of their training as an object: an `argparse.Namespace`, an
object of a class of one's own, a path, a numpy scalar. torch's weights-only reader refuses all of
them. A replacement is given to it under the name of the original, which is never imported: it keeps
the values that the file states, and runs nothing.
"""

import re
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

import numpy as np

# torch knows the replacements in all threads of the process while one of them reads a pickle.
# Another one would not count their names among those that its own file needs replaced.
_UNPICKLING = threading.Lock()

# Classes of settings, by the last part of their name: `argparse.Namespace`, `__main__.GPTConfig`.
_SETTINGS = re.compile(r"(^|\.)\w*(Namespace|Config|Args|Arguments|HParams|Params|Settings)$")
# Among the states of optimizers: loss scales, and the stages of ZeRO.
_UNUSED = re.compile(r"^deepspeed\.")
_PATHS = re.compile(r"^pathlib(\._local)?\.(Pure)?(Posix|Windows)?Path$")


class Settings:
    """A replacement for the class of an object of settings: its values are its attributes.

    class_name: the full name of the original class.
    """

    class_name = ""


class Unused:
    """A replacement for classes of DeepSpeed whose objects hold nothing of a model."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _NumberKind:
    """A replacement for numpy.dtype, so that numpy scalars among settings can be read."""

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


class _Array:
    """A replacement for numpy.ndarray, without its numbers: those of random generators' states."""

    def __setstate__(self, state: Any) -> None:
        pass


def _array(*_: Any) -> _Array:
    """Return an array's replacement; numpy makes an empty array first, and then sets its state."""
    return _Array()


def _path(*parts: Any) -> str:
    """Return the parts of a path as text."""
    return str(PurePosixPath(*map(str, parts)))


def _arguments(*arguments: Any) -> tuple[Any, ...]:
    """Return what an object would be made from."""
    return arguments


_BY_NAME: dict[str, Any] = {
    "numpy.dtype": _NumberKind,
    "numpy.ndarray": _Array,
    # numpy 2 renamed its core package; pickles name the one that wrote them.
    **{
        f"numpy.{core}.multiarray.{name}": replacement
        for core in ("core", "_core")
        for name, replacement in (("scalar", _number), ("_reconstruct", _array))
    },
    "torch.torch_version.TorchVersion": str,
    **{f"datetime.{name}": _arguments for name in ("date", "datetime", "timedelta")},
}


@contextmanager
def unpickling(names_in_file: Callable[[], Collection[str]]) -> Iterator[list[str]]:
    """Let torch's weights-only reader know the replacements of what a file names, in the context.

    names_in_file: returns the names that torch does not allow by itself. Yields those of them for
    which there is no replacement. One thread at a time is in the context.
    """
    import torch

    with _UNPICKLING:
        names = names_in_file()
        known = _replacements(names)
        with torch.serialization.safe_globals([*known]):
            yield sorted(set(names) - {name for _, name in known})


def _replacements(names: Collection[str]) -> list[tuple[Any, str]]:
    """Return the replacement of each of the names for which there is one, with the name.

    In the form that `torch.serialization.safe_globals` takes.
    """
    found: list[tuple[Any, str]] = []
    for name in sorted(names):
        if name in _BY_NAME:
            found.append((_BY_NAME[name], name))
        elif _PATHS.match(name):
            found.append((_path, name))
        elif _UNUSED.match(name):
            found.append((Unused, name))
        elif _SETTINGS.search(name):
            found.append((type("Settings", (Settings,), {"class_name": name}), name))
    return found


def values_of(settings: Any) -> dict[str, Any] | None:
    """Return settings, an object or a dictionary, as a dictionary by name; None for others."""
    values = vars(settings) if isinstance(settings, Settings) else settings
    if not isinstance(values, Mapping):
        return None
    return {str(name): value for name, value in values.items()}
