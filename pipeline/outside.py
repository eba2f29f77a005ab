"""The gate that every file from outside passes: checkpoints, runs, inputs, answers of servers.

A file is read only if it is a regular one of a bounded size. JSON holds no key twice, no number
that is not finite or has more than `_MOST_DIGITS` digits, and no broken text. Everything else that
goes wrong while a file is read becomes one sentence that names it (`reading`).
"""

import errno
import json
import math
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeGuard

from pipeline.errors import CheckpointError, InputError, first_line

Refusal = type[InputError] | type[CheckpointError]

# Bytes of a file that describes something, such as a config or an index. Python needs up to 20
# times as many for what is in it.
LARGEST = 20 * 2**20
_LARGEST_TOKENIZER = 64 * 2**20  # those of 256,000 tokens have 35 MB
DEEPEST = 64  # levels of a config: deeper ones would exceed the recursion limit elsewhere
_MOST_DIGITS = 40  # of an integer; `model_max_length` of tokenizers has 31
_SHOWN = 200  # characters of a library's message

# What a RuntimeError says where memory ran out: of torch's CPU allocator, and on CUDA of the
# libraries and kernels that take memory past torch's own allocator.
_OUT_OF_MEMORY = (
    "DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
)  # fmt: skip

# Errors of the file system that another attempt meets again. Any other may pass.
_LASTING = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP,
    errno.ENAMETOOLONG, errno.ENXIO, errno.ENODEV, errno.EINVAL,
}  # fmt: skip

# Pointers that stand for files whose content was not fetched: how they begin, and the remedy.
_POINTERS = (
    (b"version https://git-lfs.github.com/spec/", "is a git-lfs pointer", "run git lfs pull"),
    (b"version https://hawser.github.com/spec/", "is a git-lfs pointer", "run git lfs pull"),
    (b"/annex/objects/", "is a git-annex pointer", "run git annex get"),
)
_LARGEST_POINTER = 2**12  # bytes; git-lfs itself takes no larger file for one of its pointers
_ENOUGH = 64  # bytes
_REMEDY = "restore it"


@contextmanager
def opened(
    path: str | Path, refusal: Refusal, most: int | None = None, remedy: str = _REMEDY
) -> Iterator[BinaryIO]:
    """Yield a stream of a regular file of at most `most` bytes (None: any number).

    remedy: what to do about a file that is refused, the end of most messages.

    Raises `refusal` for another file (opening a named pipe would wait for ever), one that is
    larger, absent or denied, and for a pointer of git-lfs or git-annex whose content was not
    fetched; OSError for errors that may pass.
    """
    try:
        # Without O_NONBLOCK, opening a named pipe waits for a writer. Regular files ignore it.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        _refuse_lasting(error, path, refusal, remedy)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise refusal(f"{path}: is {_kind(status.st_mode)}, expected a file: put one there")
    with os.fdopen(descriptor, "rb") as stream:
        if most is not None and status.st_size > most:
            raise refusal(_too_large(path, status.st_size, most, remedy))
        if status.st_size <= _LARGEST_POINTER and (found := pointer_of(stream.read(_ENOUGH))):
            raise refusal(f"{path}: {found}")
        stream.seek(0)
        yield stream


def pointer_of(start: bytes) -> str | None:
    """Return a description of the pointer to another file that begins so, None if it is none."""
    beginning = start.lstrip()
    for mark, what, remedy in _POINTERS:
        if beginning.startswith(mark):
            return f"{what}, not the file: {remedy}"
    return None


def content_of(
    path: str | Path, refusal: Refusal, most: int = LARGEST, remedy: str = _REMEDY
) -> bytes:
    """Return the content of a regular file of at most `most` bytes; raises as `opened` does."""
    with opened(path, refusal, most, remedy) as stream:
        try:
            content = stream.read(most + 1)
        except OSError as error:
            _refuse_lasting(error, path, refusal, remedy)
    if len(content) > most:  # it has grown since it was opened
        raise refusal(_too_large(path, len(content), most, remedy))
    return content


def largest(name: str) -> int:
    """Return the bytes that a file of this name may have, of those that describe something."""
    return _LARGEST_TOKENIZER if name.startswith("tokenizer") else LARGEST


def refuse_larger(where: str, size: int, refusal: Refusal, most: int = LARGEST) -> None:
    """Raise `refusal` for a file of more bytes, by its listing, than one of its kind has."""
    if size > most:
        raise refusal(_too_large(where, size, most, _REMEDY))


def parsed_json(content: bytes, finite: bool = True) -> Any:
    """Return the value of a JSON text. Raises ValueError with the reason where it is not sound.

    finite: refuse NaN and infinities, which Python's reader accepts although JSON has none.
    """
    try:
        value = json.loads(
            content,
            object_pairs_hook=_without_doubles,
            parse_int=_integer,
            parse_float=_finite if finite else None,
            parse_constant=_finite if finite else None,
        )
        if b"\\u" in content:  # half of a surrogate pair is no text that can be written anywhere
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise ValueError(f"it holds text that is not UTF-8 ({error.reason})") from error
    return value


def json_object(
    content: bytes,
    where: str,
    refusal: Refusal,
    infinite: Collection[str] = (),
    remedy: str = "restore it",
) -> dict[str, Any]:
    """Return the JSON object in a file's content. Raises `refusal`, naming the file, for another.

    infinite: keys whose numbers may be infinite or NaN. Objects in it are at most `DEEPEST` levels
    deep.
    """
    try:
        value = parsed_json(content, finite=not infinite)
    except ValueError as error:
        raise refusal(f"{where}: is not valid JSON ({first_line(error)}): {remedy}") from error
    if not isinstance(value, dict):
        raise refusal(f"{where}: holds no JSON object but {_json_type(value)}: {remedy}")
    if wrong := _unsound(value, infinite, DEEPEST):
        raise refusal(f"{where}: {wrong}: {remedy}")
    return value


@contextmanager
def reading(
    where: str,
    refusal: Refusal = CheckpointError,
    passing: tuple[type[Exception], ...] = (OSError,),
    remedy: str = "restore the file",
) -> Iterator[None]:
    """Raise every unexpected error while `where` is read as `refusal`, with the error as cause.

    Libraries that read files raise errors of any type for damaged ones. InputError and
    CheckpointError pass unchanged; so do those of `passing`, after which another attempt may
    succeed.
    """
    try:
        yield
    except (InputError, CheckpointError, *passing):
        raise
    except Exception as error:
        if MemoryError in passing and is_out_of_memory(error):
            raise
        raise refusal(_cannot(where, error, remedy)) from error
    except BaseException as error:
        # Libraries written in Rust raise their panics as a type that is no Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise refusal(_cannot(where, error, remedy)) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out: torch raises errors of its own for it, one a RuntimeError."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and any(one in str(error) for one in _OUT_OF_MEMORY))
    )


def _cannot(where: str, error: BaseException, remedy: str) -> str:
    reason = f"{type(error).__name__}: {first_line(error)}"[:_SHOWN]
    return f"{where}: cannot be read ({reason}): {remedy}"


def is_whole(value: object, least: int = 0, most: int = 2**63 - 1) -> TypeGuard[int]:
    """Return whether a value from outside is an integer, no boolean, within bounds."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _refuse_lasting(error: Exception, path: str | Path, refusal: Refusal, remedy: str) -> NoReturn:
    """Raise `refusal` for an error that another attempt meets again, and the error for others."""
    if isinstance(error, OSError) and error.errno not in _LASTING:
        raise error
    reason = getattr(error, "strerror", None) or first_line(error)
    shown = repr(str(path)) if "\0" in str(path) else path
    raise refusal(f"{shown}: cannot be read ({reason}): {remedy}") from error


def _kind(mode: int) -> str:
    kinds = {
        stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a named pipe", stat.S_ISSOCK: "a socket",
        stat.S_ISCHR: "a device", stat.S_ISBLK: "a device",
    }  # fmt: skip
    return next((name for test, name in kinds.items() if test(mode)), "no regular file")


def _too_large(where: object, size: int, most: int, remedy: str) -> str:
    return f"{where}: has {size:,} bytes, expected at most {most:,}: {remedy}"


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        double = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"it has the key {double[:_SHOWN]!r} twice")
    return found


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"it holds an integer of {len(digits)} digits")
    return int(digits)


def _finite(spelling: str) -> float:
    number = float(spelling)
    if not math.isfinite(number):
        raise ValueError(f"it holds {spelling[:_MOST_DIGITS]}, which is not a finite number")
    return number


def _unsound(value: Any, infinite: Collection[str], levels: int, name: str = "it") -> str:
    """Return what makes a value unsound: its depth, or a number that is not finite; else ""."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"has {name[:_SHOWN]} = {value}, which is not a finite number"
    if not isinstance(value, dict | list):
        return ""
    if levels == 0:
        return f"is nested more than {DEEPEST} levels deep"
    pairs = value.items() if isinstance(value, dict) else ((name, one) for one in value)
    found = (
        _unsound(one, infinite, levels - 1, key)
        for key, one in pairs
        if isinstance(one, dict | list | float) and key not in infinite
    )
    return next((wrong for wrong in found if wrong), "")


def _json_type(value: Any) -> str:
    names = {list: "a list", str: "text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
