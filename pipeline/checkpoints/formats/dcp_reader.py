"""Have torch.distributed.checkpoint read tensors, by metadata that was checked before."""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from pipeline.checkpoints.archives import refuse_unsound
from pipeline.checkpoints.formats.dcp_metadata import SavedTensors
from pipeline.checkpoints.streams import PlacedStream
from pipeline.errors import CheckpointError, first_line
from pipeline.outside import is_out_of_memory


def loaded(
    saved: SavedTensors, shards: Mapping[str, Path], names: Sequence[str], file: Path
) -> dict[str, Tensor]:
    """Return the tensors of these names. shards: the files that hold them, by name.

    Raises CheckpointError, naming `file`, if one cannot be read; OSError and MemoryError pass.
    """
    tensors: dict[str, Any] = {name: _unread(saved.metadata, name) for name in names}
    try:
        # torch warns that no process group was started.
        with warnings.catch_warnings(action="ignore"):
            dcp.load(  # pyright: ignore[reportPrivateImportUsage]
                tensors,
                storage_reader=_Reader(saved.metadata, shards, file.parent),
                planner=DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
                no_dist=True,
            )
    except CheckpointException as error:  # no Exception, and holds what was raised
        causes = [cause for cause, _ in error.failures.values()]
        for cause in causes:
            if is_out_of_memory(cause) or (isinstance(cause, OSError) and cause.errno is not None):
                raise cause from error
        reason = first_line(causes[0] if causes else error)
        raise CheckpointError(
            f"{file}: its tensors cannot be read ({reason}): save or copy the checkpoint again"
        ) from error
    return tensors


def _unread(metadata: Metadata, name: str) -> Tensor:
    """Return a tensor to be filled. What no chunk covers stays NaN, and is thus found."""
    described = metadata.state_dict_metadata[name]
    assert isinstance(described, TensorStorageMetadata)
    dtype = described.properties.dtype
    return torch.full(described.size, math.nan if dtype.is_floating_point else 0, dtype=dtype)


class _Section(PlacedStream):
    """A part of a stream, as a stream. torch's own view of it cannot be sought from its end."""

    def __init__(self, stream: IO[bytes], start: int, length: int) -> None:
        super().__init__(length)
        self._stream, self._start = stream, start

    def _read_at(self, start: int, count: int) -> bytes:
        self._stream.seek(self._start + start)
        return self._stream.read(count)


class _Files(FileSystem):
    """The files on disk, each by its name: no name leads out of a folder."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        super().__init__()
        self._files = files

    def concat_path(self, path: Any, suffix: str) -> Path:
        """Return the path of the file of this name."""
        return self._files[suffix]


class _Reader(FileSystemReader):
    """torch's reader, without the unpickling of `.metadata`. It loads tensors by `weights_only`."""

    def __init__(self, metadata: Metadata, files: Mapping[str, Path], folder: Path) -> None:
        super().__init__(folder)
        self._metadata, self.fs = metadata, _Files(files)

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Return the metadata that was checked."""
        return self._metadata

    def _slice_file(self, file: Any, sinfo: Any) -> Any:
        """Return the bytes of one tensor, a file of torch.save, after checking their structure."""
        section = cast(BinaryIO, _Section(file, sinfo.offset, sinfo.length))
        refuse_unsound(section, sinfo.length)
        return super()._slice_file(file, sinfo)
