"""Check a weight file against what it says of itself, before its bytes are hashed or read.

A damaged file may be of any length, or claim one: that it is not what its header says is known
from a few kilobytes.
"""

import os
from pathlib import Path
from typing import BinaryIO

from pipeline.checkpoints.archives import refuse_unsound
from pipeline.checkpoints.headers import Header, read_header
from pipeline.checkpoints.placeholders import BEGINNING, placeholder_of
from pipeline.errors import CheckpointError, first_line
from pipeline.outside import opened, reading

# Of other formats: the parts of torch.distributed.checkpoint, its `.metadata`, and configs.
_OTHERS = (".distcp", "", ".json")


def refuse_misstated(file: Path) -> None:
    """Raise CheckpointError, naming the file, unless it is as long and sound as it says."""
    with opened(file, CheckpointError) as stream, reading(str(file), remedy="copy it again"):
        if found := placeholder_of(stream.read(BEGINNING)):
            raise CheckpointError(f"{file}: {found}")
        stream.seek(0)
        size = os.fstat(stream.fileno()).st_size
        try:
            if file.suffix == ".safetensors":
                _refuse_another_size(_header(stream, size), size)
            elif file.suffix not in _OTHERS:
                refuse_unsound(stream, size)
        except (ValueError, EOFError) as error:
            raise misread(file, error) from error


def misread(file: Path, error: BaseException) -> CheckpointError:
    """Return the error for a weight file that is damaged or no weight file, with the reason."""
    return CheckpointError(
        f"{file}: is truncated or no weight file ({first_line(error)}): save or copy it again"
    )


def _header(stream: BinaryIO, size: int) -> Header:
    def read(start: int, stop: int) -> bytes:
        stream.seek(start)
        return stream.read(stop - start)

    return read_header(read, size)


def _refuse_another_size(header: Header, size: int) -> None:
    if size < header.size:
        raise EOFError(f"it has {size:,} bytes, by its header {header.size:,}")
    if size > header.size:
        raise ValueError(f"it has {size:,} bytes, {size - header.size:,} more than by its header")
