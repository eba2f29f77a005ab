"""Source code of the user's own measures, and its transfer to other processes.

A file is pickled as its text: a process that unpickles a measure runs that text as a separate
module, so that the file need not exist there, and a changed file is another module. A class of an
installed package is imported there, and must have the same source.
"""

import hashlib
import importlib
import linecache
import platform
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import torch

from pipeline.errors import InputError

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Source:
    """The text of the module that defines a measure.

    place: the path of a file, or the name of an `installed` module.
    """

    place: str
    text: str
    installed: bool = False

    @cached_property
    def digest(self) -> str:
        """sha256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def file(self) -> str:
        """The path of the file, as it is named in tracebacks."""
        return str(sys.modules[self.place].__file__) if self.installed else self.place

    def classes(self, base: type[Kind]) -> dict[str, type[Kind]]:
        """Return the subclasses of `base` that the module defines, each with this as its `source`.

        The module is run once in each process. Raises InputError where it cannot be run.
        """
        module = self._imported() if self.installed else self._run()
        found = {
            name: value
            for name, value in vars(module).items()
            if isinstance(value, type)
            and issubclass(value, base)
            and value.__module__ == module.__name__
        }
        for kind in found.values():
            kind.source = self  # type: ignore[attr-defined]
        return found

    def _imported(self) -> ModuleType:
        module = import_installed(self.place)
        if source_of_installed(module).digest != self.digest:
            raise InputError(
                f"{self.place} on {platform.node()} ({module.__file__}) is not the one in the "
                "process that started it: install the same version of it on all machines"
            )
        return module

    def _run(self) -> ModuleType:
        # The path is part of the name, because it is compiled into the code for tracebacks.
        of = hashlib.sha256(f"{self.place}\0{self.text}".encode()).hexdigest()
        name = f"ontogeny_measures_{of[:16]}"
        if name in sys.modules:
            return sys.modules[name]
        module = ModuleType(name)
        module.__file__ = self.place
        # With this entry tracebacks show lines also in processes without the file. `None` as time
        # of change keeps `linecache.checkcache` from dropping it.
        linecache.cache[self.place] = (
            len(self.text), None, self.text.splitlines(keepends=True), self.place,
        )  # fmt: skip
        sys.modules[name] = module  # dataclasses and pydantic look up the module of a class
        # `exec` runs the user's own code, which the user names in a file or on the command line.
        try:
            with located(self, InputError):
                exec(compile(self.text, self.place, "exec"), module.__dict__)
        except BaseException:
            del sys.modules[name]  # else the next call would return a half-made module
            raise
        return module


def read_source(path: str) -> Source:
    """Return the source in a file. Raises InputError where that fails."""
    try:
        return Source(path, Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise InputError(
            f"{path}: cannot be read ({why}): give a Python file as <path>.py:<Class>"
        ) from error


def import_installed(name: str) -> ModuleType:
    """Return an installed module by its name. Raises InputError where that fails."""
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise InputError(
            f"{name} cannot be imported on {platform.node()} ({_said(error)}): "
            "install its package there, or name a file as <path>.py:<Class>"
        ) from error


def source_of_installed(module: ModuleType) -> Source:
    """Return the source of an imported module. Raises InputError where that fails."""
    if not module.__file__ or not module.__file__.endswith(".py"):
        raise InputError(f"{module.__name__} is no Python file: name the module of the class")
    text = Path(module.__file__).read_text(encoding="utf-8")
    return Source(module.__name__, text, installed=True)


@contextmanager
def located(
    source: Source | None, kind: type[Exception], passing: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Convert errors in the user's own code to `kind`, with file and line in one sentence.

    Errors of files and memory, which the code did not cause, InputError, which has such a message
    already, and those in `passing` are not converted; without a source, none is.
    """
    try:
        yield
    except (InputError, OSError, MemoryError, torch.OutOfMemoryError, *passing):
        raise
    except Exception as error:
        if source is None:
            raise
        raise kind(f"{_line_of(source, error)}: {_said(error)}") from error


def _line_of(source: Source, error: Exception) -> str:
    """Return the file, and the last of its lines in an error's traceback."""
    file = source.file
    if isinstance(error, SyntaxError) and error.filename == file:
        return f"{file}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file]
    return f"{file}, line {lines[-1]}" if lines else file


def _said(error: Exception) -> str:
    said = error.msg if isinstance(error, SyntaxError) else str(error).strip()
    return ": ".join(filter(None, [type(error).__name__, said.partition("\n")[0]]))
