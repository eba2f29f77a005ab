"""A search in a file of torch.save tells its content from a storage that does not answer."""

import errno
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, cast

import pytest
import torch

from pipeline.checkpoints.archives import mentions, refuse_unsound
from pipeline.checkpoints.streams import PlacedStream


class _Stored(PlacedStream):
    """A file in a storage that returns no bytes from `fails_from` on."""

    def __init__(self, content: bytes, fails_from: int | None = None) -> None:
        super().__init__(len(content))
        self._content, self._fails_from = content, fails_from

    def _read_at(self, start: int, count: int) -> bytes:
        if self._fails_from is not None and start + count > self._fails_from:
            raise OSError(errno.EIO, "Input/output error")
        return self._content[start : start + count]


def _stream(content: bytes, fails_from: int | None = None) -> BinaryIO:
    return cast(BinaryIO, _Stored(content, fails_from))


def _saved(**tensors: torch.Tensor) -> bytes:
    stream = BytesIO()
    torch.save(tensors, stream)
    return stream.getvalue()


CONTENT = _saved(mine=torch.zeros(2))


def test_a_name_is_found_in_the_pickle_alone() -> None:
    assert mentions(_stream(CONTENT), b"mine")
    assert not mentions(_stream(CONTENT), b"yours")


def test_an_error_of_the_storage_is_no_answer() -> None:
    with pytest.raises(OSError, match="Input/output error"):
        mentions(_stream(CONTENT, fails_from=2), b"mine")


def test_a_damaged_file_mentions_nothing() -> None:
    for content in (CONTENT[: len(CONTENT) // 2], b"PK", b""):
        assert not mentions(_stream(content), b"mine")


def test_an_offset_before_the_start_is_damage(tmp_path: Path) -> None:
    """A stream of the disk, unlike one of memory, then raises OSError."""
    content = bytearray(CONTENT)
    contents = content.rfind(b"PK\x06\x06") + 48  # the offset of the table of contents
    stated = int.from_bytes(content[contents : contents + 8], "little")
    content[contents : contents + 8] = (stated + 10_000).to_bytes(8, "little")
    (tmp_path / "a.pt").write_bytes(content)
    with (tmp_path / "a.pt").open("rb") as stream:
        assert not mentions(stream, b"mine")
        stream.seek(0)
        with pytest.raises(ValueError, match="Invalid argument"):
            refuse_unsound(stream, len(content))
