"""What a file of torch.save mentions is told apart from a storage that does not answer."""

import errno
from io import BytesIO

import pytest
import torch

from pipeline.checkpoints.archives import mentions


class _Failing(BytesIO):
    """A file of which the storage returns the first bytes only."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() > 0:
            raise OSError(errno.EIO, "Input/output error")
        return super().read(size)


def _saved(**tensors: torch.Tensor) -> bytes:
    stream = BytesIO()
    torch.save(tensors, stream)
    return stream.getvalue()


def test_a_name_is_found_in_the_pickle_alone() -> None:
    assert mentions(BytesIO(_saved(mine=torch.zeros(2))), b"mine")
    assert not mentions(BytesIO(_saved(mine=torch.zeros(2))), b"yours")


def test_an_error_of_the_storage_is_no_answer() -> None:
    with pytest.raises(OSError, match="Input/output error"):
        mentions(_Failing(_saved(mine=torch.zeros(2))), b"mine")


def test_a_damaged_file_mentions_nothing() -> None:
    whole = _saved(mine=torch.zeros(2))
    assert not mentions(BytesIO(whole[: len(whole) // 2]), b"mine")
    assert not mentions(BytesIO(b"PK"), b"mine") and not mentions(BytesIO(b""), b"mine")
