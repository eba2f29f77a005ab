"""The sizes of checkpoints' weights, from listings: no weights are read."""

from collections.abc import Sequence

from pipeline.checkpoints import Checkpoint
from pipeline.checkpoints.places import listed_folder, place_of
from pipeline.checkpoints.weight_files import weight_parts
from pipeline.errors import CheckpointError


def weight_bytes(checkpoints: Sequence[Checkpoint]) -> list[int]:
    """Return the bytes of each checkpoint's weights; 0 for those that are broken."""
    sizes = []
    for checkpoint in checkpoints:
        place = place_of(checkpoint.uri)
        try:
            sizes.append(sum(part.size for part in weight_parts(place, listed_folder(checkpoint))))
        except CheckpointError:
            sizes.append(0)
    return sizes
