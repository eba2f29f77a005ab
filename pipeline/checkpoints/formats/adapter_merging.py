"""Merge a LoRA adapter into its base model, through transformers and peft."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from pipeline.checkpoints.floats import refuse_quantised
from pipeline.checkpoints.formats.parts import shown, state_dict_in
from pipeline.checkpoints.stated_sizes import refuse_misstated
from pipeline.checkpoints.torch_files import saved_file
from pipeline.checkpoints.wrappers import without_wrappers
from pipeline.errors import CheckpointError, first_line
from pipeline.outside import is_out_of_memory, reading

_REMEDY = "give the base model that it was trained on by `base` in the analysis"


def file_tensors(file: Path) -> dict[str, Tensor]:
    """Return all tensors of a file of safetensors or torch.save, by name.

    Raises CheckpointError, naming the file, if it would run code or is damaged.
    """
    refuse_misstated(file)
    if file.suffix == ".safetensors":
        with reading(str(file), remedy="save or copy it again"):
            return safetensors.torch.load_file(file, backend="pread")
    with saved_file(file) as saved:
        return saved.loaded(state_dict_in(saved.content, file))


def merged(
    weights: Mapping[str, Tensor], config: Mapping[str, Any], file: Path, settings: dict[str, Any]
) -> dict[str, Tensor]:
    """Return the state dict of the base model with the adapter in `file` merged into it.

    weights, config: the base model's. settings: those of a `peft.LoraConfig`. Raises
    CheckpointError, naming the file, if the adapter does not fit the base model.
    """
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    dtypes = {name: tensor.dtype for name, tensor in weights.items()}
    floats = [name for name in dtypes if name.endswith(".weight")]
    refuse_quantised(dtypes, floats, f"{file}: its base model", config)
    adapter = file_tensors(file)
    base = _built(weights, config, file)
    try:
        with warnings.catch_warnings(action="ignore"):  # about the libraries' own names
            whole = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **settings))
        found = set_peft_model_state_dict(whole, adapter)
        _refuse_misfit(found.missing_keys, found.unexpected_keys, file)
        plain = cast(Any, whole).merge_and_unload()
    except CheckpointError:
        raise
    except Exception as error:  # of any type, for settings or shapes that do not fit
        if is_out_of_memory(error):
            raise
        raise CheckpointError(
            f"{file}: does not fit its base model ({first_line(error)}): {_REMEDY}"
        ) from error
    return {name: tensor.detach() for name, tensor in plain.state_dict().items()}


def _built(weights: Mapping[str, Tensor], config: Mapping[str, Any], file: Path) -> PreTrainedModel:
    """Return the base model in float32. Raises CheckpointError if its weights are not all there."""
    names = without_wrappers(weights, f"{file}: its base model")
    state = {names[name]: tensor for name, tensor in weights.items()}
    with _quietly(), reading(f"{file}: its base model", remedy=_REMEDY):
        with torch.device("meta"):
            kind = type(AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)))
        model, found = kind.from_pretrained(
            None,
            config=AutoConfig.for_model(**config),
            state_dict=state,
            dtype=torch.float32,
            output_loading_info=True,
        )
    if missing := found["missing_keys"]:
        raise CheckpointError(
            f"{file}: its base model lacks {shown(sorted(missing))}: restore it, or {_REMEDY}"
        )
    if wrong := found["mismatched_keys"]:
        raise CheckpointError(
            f"{file}: its base model has other shapes than its config.json: "
            f"{shown(sorted(map(str, wrong)))}: restore it"
        )
    return model


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep transformers from showing its progress, and what it finds, in the context."""
    level, shows = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shows:
            logging.enable_progress_bar()


def _refuse_misfit(missing: Collection[str], unexpected: Collection[str], file: Path) -> None:
    """Raise CheckpointError for tensors of an adapter that the base model has no place for."""
    lacking = [name for name in missing if "lora_" in name or "modules_to_save" in name]
    if lacking or unexpected:
        parts = {"missing": lacking, "unexpected": list(unexpected)}
        found = "; ".join(f"{what}: {shown(names)}" for what, names in parts.items() if names)
        raise CheckpointError(f"{file}: does not fit its base model ({found}): {_REMEDY}")
