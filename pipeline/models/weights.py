"""Read the weights of a checkpoint's files; ModelWeights: those of a model, by parameter name."""

import copy
import pickle
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import safetensors.torch
import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.checkpoints.floats import refuse_unreadable
from pipeline.checkpoints.formats.base import LocalParts
from pipeline.checkpoints.formats.plain import STATE_DICTS
from pipeline.checkpoints.hooked_tensors import is_transformerlens, renamed, without_zero_bias
from pipeline.checkpoints.pickle_globals import refusal_of
from pipeline.checkpoints.shapes import refuse_inflated
from pipeline.checkpoints.stated_sizes import misread, refuse_misstated
from pipeline.checkpoints.weight_files import local_parts
from pipeline.checkpoints.wrappers import without_wrappers
from pipeline.errors import CheckpointError, first_line
from pipeline.models.facts import ModelFacts
from pipeline.outside import is_out_of_memory

Weights = Mapping[str, Tensor]

_STATE_DICTS = (*STATE_DICTS, "module")  # the last one is DeepSpeed's


class ModelWeights(dict[str, Tensor]):
    """A model's parameters by name, tied ones once.

    config: the architecture's config, that of the language model if it has several. facts: sizes.
    Those that were not read from the checkpoint's files are on the meta device, without data, so
    that torch refuses to compute a number from them.
    """

    def __init__(self, module: PreTrainedModel, facts: ModelFacts):
        super().__init__(module.named_parameters())
        self.config = module.config.get_text_config()
        self.facts = facts

    def only(self, names: Container[str]) -> "ModelWeights":
        """Return the same weights, of which those of other names have no data."""
        chosen = copy.copy(self)  # keeps config and facts
        others = {name: one for name, one in self.items() if name not in names}
        chosen.update({name: torch.empty_like(one, device="meta") for name, one in others.items()})
        return chosen


def read_weights(
    checkpoint: str | Path | LocalParts, config: Mapping[str, Any] = {}
) -> dict[str, Tensor]:
    """Return all tensors of a local checkpoint by the names in its files, without wrappers.

    checkpoint: its folder, or the files of its weights. config: the content of its config.json,
    which some formats need. In other formats than that of Hugging Face, the names are those of the
    parameters that transformers gives the model.

    The tensors are copies, not memory maps, so that the files may change or be removed afterwards.
    Thread-safe. Raises CheckpointError, naming the file, if one is absent, truncated or of another
    format.
    """
    parts = checkpoint if isinstance(checkpoint, LocalParts) else local_parts(checkpoint)
    if parts.format is not None:
        return parts.format.tensors(parts.files, config)
    weights: dict[str, Tensor] = {}
    for file in parts.files.values():
        weights.update(_read_file(file))
    names = without_wrappers(weights, str(next(iter(parts.files.values())).parent))
    return {names[name]: tensor for name, tensor in weights.items()}


def _read_file(file: Path) -> dict[str, Tensor]:
    refuse_misstated(file)
    try:
        if file.suffix == ".safetensors":
            # "pread" copies; the default maps the file: later writes to it would change the
            # weights, and its truncation would kill the process with SIGBUS.
            return safetensors.torch.load_file(file, backend="pread")
        content = torch.load(file, map_location="cpu", weights_only=True)
        content = _without_a_wrapper(content)
        if is_state_dict(content):
            refuse_inflated(content.items(), file.stat().st_size)
    except pickle.UnpicklingError as error:
        if reason := refusal_of(file, error):
            raise CheckpointError(f"{file}: {reason}") from error
        raise misread(file, error) from error
    except OSError as error:
        if error.errno is not None:  # of the storage, and another attempt may succeed
            raise
        raise misread(file, error) from error
    except Exception as error:  # of any type, for a damaged file
        if is_out_of_memory(error):
            raise
        raise misread(file, error) from error
    if not is_state_dict(content):
        raise CheckpointError(
            f"{file}: expected a dictionary of tensors by name, found {_described(content)}: save "
            "the weights alone"
        )
    refuse_unreadable(content, str(file))
    if not is_transformerlens(content):
        return content
    try:
        return renamed(without_zero_bias(content))
    except Exception as error:  # of any type, for tensors of other shapes
        raise CheckpointError(
            f"{file}: is no complete state dict of TransformerLens: {first_line(error)}"
        ) from error


def _without_a_wrapper(content: Any) -> Any:
    """Return the state dict under the usual name in a dictionary of training states, if it is one.

    With several such names, or none, the content is returned as it is.
    """
    if not isinstance(content, dict) or any(isinstance(one, Tensor) for one in content.values()):
        return content
    found = [content[name] for name in _STATE_DICTS if is_state_dict(content.get(name))]
    return found[0] if len(found) == 1 else content


def _described(content: Any) -> str:
    """Return the type of a content; of a dictionary, the first entry that is no tensor by name."""
    if not isinstance(content, dict):
        return type(content).__name__
    others = [name for name in content if not is_state_dict({name: content[name]})]
    if not others:
        return "no tensor"
    many = f" and {len(others) - 1} more such" if len(others) > 1 else ""
    return f"{str(others[0])[:80]!r} = {type(content[others[0]]).__name__}{many}"


def is_state_dict(content: Any) -> TypeGuard[dict[str, Tensor]]:
    """Return whether the content of a file is a dictionary of tensors by name."""
    return isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    )
