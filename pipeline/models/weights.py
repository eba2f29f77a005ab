"""Weights by the names of their parameters, and how they are read from a checkpoint's files."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.checkpoints import transformerlens
from pipeline.checkpoints.files import weight_files
from pipeline.checkpoints.floats import refuse_unreadable
from pipeline.checkpoints.placeholders import placeholder_in
from pipeline.errors import CheckpointError, InputError, first_line
from pipeline.models.facts import ModelFacts
from pipeline.models.fit import without_wrappers

Weights = Mapping[str, Tensor]


class ModelWeights(dict[str, Tensor]):
    """A model's parameters by name, tied ones once, with what says what the names mean.

    config: the architecture's own description. facts: its sizes.
    """

    def __init__(self, module: PreTrainedModel, facts: ModelFacts):
        super().__init__(module.named_parameters())
        self.config = module.config.get_text_config()
        self.facts = facts


def read_weights(folder: str | Path) -> dict[str, Tensor]:
    """All tensors of a local checkpoint, by the names in its files, in memory of their own.

    Nothing stays mapped, so the files may change or go afterwards. Any thread may call this.
    Raises CheckpointError, naming the file, where one is absent, truncated or not what it says.
    """
    weights: dict[str, Tensor] = {}
    for file in weight_files(folder):
        weights.update(_read_file(file))
    names = without_wrappers(weights, str(folder))
    return {names[name]: tensor for name, tensor in weights.items()}


def _read_file(file: Path) -> dict[str, Tensor]:
    if found := placeholder_in(file):
        raise CheckpointError(f"{file}: {found}")
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file, backend="pread")
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{file}: is truncated or no weight file ({first_line(error)}): save or copy it again"
        ) from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file}: cannot be read as plain tensors ({first_line(error)}); "
            "files that would run code are refused: convert it to safetensors"
        ) from error
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise CheckpointError(
            f"{file}: expected a dictionary of tensors by name: save the weights alone"
        )
    refuse_unreadable(content, str(file))
    if not transformerlens.is_transformerlens(content):
        return content
    try:
        return transformerlens.renamed(content)
    except (InputError, KeyError) as error:
        raise CheckpointError(
            f"{file}: is no whole state dict of TransformerLens: {error}"
        ) from error
