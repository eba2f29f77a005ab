"""LoRA adapters of peft: `adapter_config.json` and `adapter_model.safetensors` (or `.bin`).

The base model's files are listed with the adapter's (see `bases.py`). Both are read in float32 and
merged by peft: W + (alpha / r) B A, with rank-stabilised scales (rsLoRA), magnitudes (DoRA),
modules that were trained whole (`modules_to_save`) and biases, where the config has them.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.checkpoints.formats.base import Source
from pipeline.checkpoints.layouts import ADAPTER
from pipeline.errors import CheckpointError
from pipeline.outside import content_of, json_object

if TYPE_CHECKING:  # listings are made without torch
    from torch import Tensor

_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_BASE = ("model*.safetensors", "pytorch_model*.bin")
_REMEDY = "merge it into its base model with peft's merge_and_unload, and give the whole model"

# Keys of the config that say which weights are computed from the adapter's, and how.
_USED = (
    "r", "lora_alpha", "target_modules", "exclude_modules", "use_rslora", "use_dora", "bias",
    "modules_to_save", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "layers_to_transform",
    "layers_pattern",
)  # fmt: skip
# Keys that do not change what the finished model computes.
_UNUSED = (
    "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "inference_mode",
    "init_lora_weights", "lora_dropout", "loftq_config", "megatron_core", "peft_type",
    "peft_version", "qalora_group_size", "revision", "task_type", "eva_config", "corda_config",
    "lora_ga_config", "runtime_config",
)  # fmt: skip
# With any other initialisation, the base model's own weights are changed before training.
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")

# Building a model replaces functions of torch in the whole process meanwhile.
_BUILDING = threading.Lock()


def weights(names: Collection[str]) -> list[str]:
    """Return the adapter's files and those of its base model; [] for a folder without adapter."""
    files = [name for name in _FILES if name in names][:1]
    if ADAPTER not in names or not files:
        return []
    return [ADAPTER, *files, *_of_base(names)]


def config(source: Source) -> dict[str, Any]:
    """Raise CheckpointError: the config is that of the base model, which was not found."""
    raise _without_base(f"{source.uri}/{ADAPTER}", source.read(ADAPTER))


def tensors(files: Mapping[str, Path], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights of the base model with those of the adapter merged into them, in float32.

    Raises CheckpointError, naming the file, for another kind of adapter, or one that does not fit;
    InputError if peft is not installed.
    """
    from pipeline.checkpoints.formats.adapter_merging import file_tensors, merged
    from pipeline.extras import require

    content = content_of(files[ADAPTER], CheckpointError)
    settings = lora_settings(
        json_object(content, str(files[ADAPTER]), CheckpointError), files[ADAPTER]
    )
    base = _of_base(files)
    if not base:
        raise _without_base(str(files[ADAPTER]), content)
    require("peft")
    weights: dict[str, Tensor] = {}
    for name in base:
        weights |= file_tensors(files[name])
    adapter = next(files[name] for name in _FILES if name in files)
    with _BUILDING:
        return merged(weights, config, adapter, settings)


def lora_settings(said: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Return the settings of a LoRA adapter, of which peft computes its weights.

    Raises CheckpointError, naming the file, for other adapters and for settings that are not known
    to be merged rightly.
    """
    kind = said.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(
            f"{file}: is an adapter of the type {kind!r}, expected LORA, the only one that is "
            f"read: {_REMEDY}"
        )
    start = said.get("init_lora_weights")
    if start not in _PLAIN_STARTS:
        raise CheckpointError(
            f"{file}: init_lora_weights = {start!r} changed the base model's own weights, and the "
            f"adapter alone does not say how: {_REMEDY}"
        )
    for key, value in said.items():
        if key not in (*_USED, *_UNUSED) and value not in (None, False, [], {}, ""):
            raise CheckpointError(
                f"{file}: says {key} = {str(value)[:60]}, which is not read: {_REMEDY}"
            )
    return {key: said[key] for key in _USED if said.get(key) is not None}


def _of_base(names: Collection[str]) -> list[str]:
    return sorted(n for n in names if any(fnmatchcase(n, pattern) for pattern in _BASE))


def _without_base(file: str, content: bytes) -> CheckpointError:
    said = json_object(content, file, CheckpointError).get("base_model_name_or_path")
    return CheckpointError(
        f"{file}: its base model {str(said)!r} is not found: give its folder or address by `base` "
        "in the analysis"
    )
