"""Where checkpoints come from: a run's checkpoints in order, and what identifies each."""

from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.local import list_local
from pipeline.errors import InputError

__all__ = ["Checkpoint", "list_checkpoints"]


def list_checkpoints(uri: str, tokens_per_step: int | None = None) -> list[Checkpoint]:
    """The checkpoints of a run, ordered by step.

    uri: a local folder with one folder per checkpoint (`step-N`, `stepN`, `checkpoint-N`,
    `global_stepN`), each with its `config.json` and its weights.
    tokens_per_step: fills `tokens_seen` where the checkpoint itself does not say.

    Raises InputError where there is no checkpoint, or two of one step.
    """
    if "://" in uri:
        raise InputError(f"{uri}: this place cannot be read: give a local folder of checkpoints")
    return list_local(uri, tokens_per_step)
