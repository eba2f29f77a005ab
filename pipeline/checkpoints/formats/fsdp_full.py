"""The whole state dict that accelerate and the Trainer save of a model under FSDP.

`pytorch_model_fsdp.bin`, written with `fsdp_state_dict_type: FULL_STATE_DICT`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.checkpoints.formats.base import Source
from pipeline.checkpoints.formats.parts import refuse_without_config, state_dict_in
from pipeline.checkpoints.wrappers import without_wrappers

if TYPE_CHECKING:  # listings are made without torch
    from torch import Tensor

_FILE = "pytorch_model_fsdp.bin"


def weights(names: Collection[str]) -> list[str]:
    """Return the file with the state dict; [] if there is none."""
    return [_FILE] if _FILE in names else []


def config(source: Source) -> dict[str, Any]:
    """Raise CheckpointError: the file does not say which model it is of."""
    refuse_without_config(source, _FILE)


def tensors(files: Mapping[str, Path], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the model's tensors by their names. Raises CheckpointError for a damaged file."""
    from pipeline.checkpoints.torch_files import saved_file

    with saved_file(files[_FILE]) as saved:
        found = saved.loaded(state_dict_in(saved.content, files[_FILE]))
    names = without_wrappers(found, str(files[_FILE]))
    return {names[name]: tensor for name, tensor in found.items()}
