"""What identifies one checkpoint."""

from dataclasses import dataclass, field

from pipeline.checkpoints.stored import Files


@dataclass(frozen=True, order=True)
class Checkpoint:
    """One saved state of a model in training.

    step: optimizer steps taken; 0 is the initialisation. tokens_seen: training tokens consumed,
    None where unknown. uri: the folder that holds its weights. digest: sha256 of the weights,
    None until it is known (reading a terabyte to list it would be a poor bargain). files: what the
    listing told of the files in the folder, so that nobody asks for them again; None where no
    listing made it.
    """

    step: int
    uri: str
    tokens_seen: int | None = None
    digest: str | None = None
    files: Files | None = field(default=None, repr=False, compare=False)
