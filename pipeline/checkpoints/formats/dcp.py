"""The files of torch.distributed.checkpoint (DCP): `.metadata` and `__0_0.distcp`, `__1_0.distcp`.

FSDP, accelerate and the Trainer (`pytorch_model_fsdp_0/`), torchtitan (`step-1000/`) and OLMo-core
(`model_and_optim/`) write them. torch's own reader reads the tensors, of the model alone: an
optimizer's are two thirds of the bytes. No process group is started.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.checkpoints.formats.base import Source
from pipeline.checkpoints.formats.parts import by_folder, joined, refuse_without_config
from pipeline.checkpoints.formats.trained_names import by_transformers_names
from pipeline.checkpoints.wrappers import without_wrappers
from pipeline.errors import CheckpointError

if TYPE_CHECKING:  # listings are made without torch
    from torch import Tensor

_METADATA = ".metadata"
_MEGATRONS = "common.pt"  # Megatron-LM saves its own kind of tensors through DCP, beside this file
_SHARDS = "*.distcp"
# Folders of the model, in order of preference where there are several.
_FOLDERS = ("", "pytorch_model_fsdp_0", "model_and_optim", "model")
# Beginnings of the keys under which training code saves what is not the model.
_OTHERS = ("optim", "lr_sched", "sched", "dataloader", "train", "rng", "scaler", "ema")
# Keys under which it saves the model.
_MODEL = ("app", "model", "module", "state_dict", "model_state_dict")


def weights(names: Collection[str]) -> list[str]:
    """Return `.metadata` and the shards; [] if there are none, or several folders of them."""
    found = {
        folder: [name for name in files if name == _METADATA or fnmatchcase(name, _SHARDS)]
        for folder, files in by_folder(names).items()
        if _METADATA in files and not folder.startswith("optim") and _MEGATRONS not in files
    }
    found = {folder: files for folder, files in found.items() if len(files) > 1}
    usual = [folder for folder in _FOLDERS if folder in found]
    chosen = usual[0] if usual else next(iter(found)) if len(found) == 1 else None
    return [] if chosen is None else sorted(joined(chosen, name) for name in found[chosen])


def config(source: Source) -> dict[str, Any]:
    """Raise CheckpointError: these files do not say which model they are of."""
    refuse_without_config(source, next(iter(weights(source.names)), _METADATA))


def tensors(files: Mapping[str, Path], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the model's tensors by their names in its state dict.

    Raises CheckpointError, naming the file, if it would run code, is damaged, or holds no model or
    several.
    """
    from pipeline.checkpoints.formats.dcp_metadata import read_metadata
    from pipeline.checkpoints.formats.dcp_reader import loaded
    from pipeline.checkpoints.torch_files import named

    shards = {Path(name).name: path for name, path in files.items()}
    metadata = shards.pop(_METADATA)
    saved = read_metadata(metadata, {name: path.stat().st_size for name, path in shards.items()})
    names = model_tensors(saved.paths, metadata)
    read = loaded(saved, shards, list(names), metadata)
    state = {names[name]: tensor for name, tensor in read.items()}
    plain = without_wrappers(state, str(metadata))
    with named(str(metadata)):
        return by_transformers_names({plain[name]: one for name, one in state.items()}, config)


def model_tensors(paths: Mapping[str, tuple[str, ...]], file: Path) -> dict[str, str]:
    """Map the tensors of the model, by the names in the file, to those in its state dict.

    paths: the keys of nested dictionaries that lead to each tensor. Raises CheckpointError if there
    is no model, or more than one.
    """
    groups: dict[tuple[str, ...], dict[str, str]] = {}
    for name, path in paths.items():
        outer = _outer(path)
        if not any(key.lower().startswith(_OTHERS) for key in outer):
            groups.setdefault(outer, {})[name] = ".".join(path[len(outer) :])
    chosen = [outer for outer in groups if outer and outer[-1] in _MODEL] or list(groups)
    if len(chosen) != 1:
        found = ", ".join(".".join(outer) or "(no key)" for outer in sorted(chosen)) or "none"
        raise CheckpointError(
            f"{file}: expected the tensors of one model, found {found} "
            f"among {len(paths)} tensors: save the model's state dict under the key 'model'"
        )
    return groups[chosen[0]]


def _outer(path: tuple[str, ...]) -> tuple[str, ...]:
    """Return the keys of the dictionaries around a model's or optimizer's own names.

    Where only flat names were saved, what precedes the name of a module is found by its spelling.
    """
    if len(path) > 1:
        # The state of an optimizer is nested further, by parameter.
        return path[:-1]
    parts = ".".join(path).split(".")
    if parts[0].lower().startswith(_OTHERS):
        return (parts[0],)
    return ()
