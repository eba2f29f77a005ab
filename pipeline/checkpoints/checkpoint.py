"""Checkpoint: the identity of one checkpoint."""

from dataclasses import dataclass, field

from pipeline.checkpoints.stored import Files


@dataclass(frozen=True, order=True)
class Checkpoint:
    """A saved state of a model in training.

    step: optimizer steps taken; 0 is the initialisation. tokens_seen: training tokens consumed,
    None if unknown. uri: the folder that holds its weights. digest: sha256 of the weights, None
    until it is known, since listing a run must not read all of its weights. files: the files in the
    folder as they were listed, so that they need not be listed again; None if there was no listing.
    """

    step: int
    uri: str
    tokens_seen: int | None = None
    digest: str | None = None
    files: Files | None = field(default=None, repr=False, compare=False)
