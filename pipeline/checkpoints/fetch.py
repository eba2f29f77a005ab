"""Provide checkpoints as folders on this machine while they are being read.

A local checkpoint is its own folder. A remote one is downloaded at the first access and removed
when it is released, so that a worker's disk use is bounded for a run of any length: a thread that
needs another checkpoint waits. While one thread computes, others download, so that the number of
threads is the number of checkpoints fetched ahead. Weights are read into memory and not mapped, so
that removing the files frees the disk, see `pipeline.models.weights.read_weights`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.fetch_local import Local
from pipeline.checkpoints.fetch_remote import Fetched
from pipeline.checkpoints.fetch_room import Room
from pipeline.checkpoints.places import remote_place_of
from pipeline.errors import CheckpointError, InputError

Copy = Local | Fetched


class Copies:
    """The fetched checkpoints of one worker. most, most_bytes, largest: the limits of `Room`."""

    def __init__(
        self, most: int = 2, most_bytes: int | None = None, largest: int | None = None
    ) -> None:
        self._room = Room(most, most_bytes, largest)

    @contextmanager
    def of(self, checkpoint: Checkpoint) -> Iterator[Copy]:
        """Yield the checkpoint's copy, which is fetched when its folder is first accessed.

        Errors about its files are raised as CheckpointError with the checkpoint's address.
        """
        kind = Fetched if _is_remote(checkpoint) else Local
        copy = kind(checkpoint, self._room)
        try:
            yield copy
        except CheckpointError as error:  # type(error), since callers handle subclasses differently
            raise type(error)(copy.restated(str(error))) from error
        except (InputError, FileNotFoundError) as error:
            raise CheckpointError(copy.restated(str(error))) from error
        finally:
            copy.release()


def _is_remote(checkpoint: Checkpoint) -> bool:
    """Return whether any of a checkpoint's files is not on this machine."""
    places = {file.at or checkpoint.uri for file in (checkpoint.files or {}).values()}
    return any(remote_place_of(one) is not None for one in {checkpoint.uri, *places})
