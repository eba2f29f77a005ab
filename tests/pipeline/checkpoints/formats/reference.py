"""Losses of two models on the same tokens, and local files, for tests of file formats."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig

from pipeline.checkpoints.formats import meta, single_file
from pipeline.checkpoints.torch_files import described
from pipeline.errors import CheckpointError
from pipeline.models.resident import Resident

VOCABULARY, SEQUENCES, LENGTH = 96, 3, 40


@dataclass(frozen=True)
class LocalSource:
    """The files of a checkpoint in a local folder."""

    folder: Path

    @property
    def uri(self) -> str:
        return str(self.folder)

    @property
    def names(self) -> list[str]:
        return sorted(file.name for file in self.folder.iterdir())

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def described(self, name: str) -> Any:
        file = self.folder / name
        content = file.read_bytes()
        try:
            return described(lambda start, stop: content[start:stop], len(content))
        except ValueError as error:
            raise CheckpointError(f"{file}: {error}") from error


def read(
    folder: Path, config: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the config and the weights of a folder in one of these formats."""
    source = LocalSource(folder)
    form: Any = meta if meta.weights(source.names) else single_file
    found = dict(config) if config else form.config(source)
    json.dumps(found)  # a config.json can be made of it
    files = {name: folder / name for name in form.weights(source.names)}
    return found, form.tensors(files, found)


def resident_of(folder: Path, config: Mapping[str, Any] | None = None) -> Resident:
    """Return the model of a folder in memory."""
    found, tensors = read(folder, config)
    resident = Resident(AutoConfig.for_model(**found))
    resident.swap(tensors, str(folder))
    return resident


def refusal(folder: Path, config: Mapping[str, Any] | None = None) -> str:
    """Return the sentence with which a folder is refused; it names a file and is one line."""
    with pytest.raises(CheckpointError) as error:
        read(folder, config)
    message = str(error.value)
    assert message.startswith(str(folder)) and "\n" not in message
    return message


def tokens(vocabulary: int = VOCABULARY) -> Tensor:
    return torch.randint(
        vocabulary, (SEQUENCES, LENGTH), generator=torch.Generator().manual_seed(5)
    )


def losses(logits: Callable[[Tensor], Tensor], ids: Tensor) -> Tensor:
    """Return the loss (nats) of each token but the first."""
    with torch.no_grad():
        found = logits(ids)[:, :-1].double()
    flat = functional.cross_entropy(found.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return flat.view(len(ids), -1)


def assert_same_losses(resident: Resident, logits: Callable[[Tensor], Tensor], ids: Tensor) -> None:
    """Check that a model in memory has the losses of another one, which are no model's of zeros."""
    expected = losses(logits, ids)
    assert expected.std() > 0.3
    found = losses(lambda one: resident.module(one).logits, ids)
    assert (found - expected).abs().max() < 1e-5


def drawn(module: nn.Module, seed: int = 0) -> nn.Module:
    """Draw all weights, so that neither attention nor losses are uniform."""
    generator = torch.Generator().manual_seed(seed)
    for one in module.parameters():
        centre = 1.0 if one.ndim == 1 else 0.0
        one.data = centre + 0.3 * torch.randn(one.shape, generator=generator)
    return module.eval().requires_grad_(False)
