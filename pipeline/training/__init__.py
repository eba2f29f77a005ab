"""Train model organisms: small models in which mechanisms are known to form abruptly."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipeline.training.config import Text, Training, load_run, load_training, tokens_per_step

if TYPE_CHECKING:
    from pipeline.training.loop import TRAINING_VERSION, train
    from pipeline.training.tasks import held_out, table_and_split, table_of, trained_vocabulary

# Imported at their first use: reading a training.yaml needs no torch.
_HOME = {
    "TRAINING_VERSION": "loop",
    "held_out": "tasks",
    "table_and_split": "tasks",
    "table_of": "tasks",
    "train": "loop",
    "trained_vocabulary": "tasks",
}

__all__ = [
    "TRAINING_VERSION",
    "Text",
    "Training",
    "held_out",
    "load_run",
    "load_training",
    "table_and_split",
    "table_of",
    "tokens_per_step",
    "train",
    "trained_vocabulary",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
