"""Train model organisms: small models in which mechanisms are known to form abruptly."""

from pipeline.training.config import Text, Training, load_run, load_training
from pipeline.training.tasks import (
    held_out,
    table_and_split,
    table_of,
    tokens_per_step,
    trained_vocabulary,
)
from pipeline.training.train import TRAINING_VERSION, train

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
