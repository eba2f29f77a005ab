"""The files of DeepSpeed's ZeRO: `mp_rank_00_model_states.pt` and `zero_pp_rank_0_..._states.pt`.

They lie in `global_step100/`, within a checkpoint's folder or as the checkpoint. With stages 1 and
2 the first file holds the model whole, as it computed: in bf16 or fp16 if it was trained so. With
stage 3 every process has a part of each parameter, of which only the float32 values are in files,
among the optimizer's: they are joined, and rounded to the dtype in which the model computed.

Joined as by DeepSpeed's `zero_to_fp32.py` (0.19): the flat groups of a process, one after another,
hold ceil(size / processes) numbers of each parameter, in the order of `param_shapes`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from pipeline.checkpoints.formats.base import Source
from pipeline.checkpoints.formats.neox import (
    is_sequential,
    transformers_tensors,
    without_sequential,
)
from pipeline.checkpoints.formats.parts import (
    by_folder,
    joined,
    refuse_without_config,
    shown,
    state_dict_in,
)
from pipeline.checkpoints.wrappers import without_wrappers
from pipeline.errors import CheckpointError

if TYPE_CHECKING:  # listings are made without torch
    from torch import Tensor

_WHOLE = re.compile(r"mp_rank_(\d+)_model_states\.pt")
_PART = re.compile(r"zero_pp_rank_(\d+)_mp_rank_(\d+)_model_states\.pt")
_OPTIMIZER = re.compile(r"(?:bf16_|fp16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_optim_states\.pt")
_REMEDY = "join its parts with DeepSpeed's zero_to_fp32.py, and give the result"


def weights(names: Collection[str]) -> list[str]:
    """Return the files of the model, for stage 3 with those of the optimizer.

    [] if there are none, or those of several steps.
    """
    found = [
        [joined(folder, name) for name in files]
        for folder, files in ((folder, _files(names)) for folder, names in by_folder(names).items())
        if files
    ]
    return found[0] if len(found) == 1 else []


def _files(names: Collection[str]) -> list[str]:
    parts = [name for name in names if _PART.fullmatch(name)]
    if parts:
        return sorted(parts + [name for name in names if _OPTIMIZER.fullmatch(name)])
    return sorted(name for name in names if _WHOLE.fullmatch(name))


def config(source: Source) -> dict[str, Any]:
    """Raise CheckpointError: these files do not say which model they are of."""
    refuse_without_config(source, next(iter(weights(source.names)), ""))


def tensors(files: Mapping[str, Path], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the model's tensors by their names in its state dict, in the dtype it computed in.

    Raises CheckpointError, naming the file, if it would run code, is damaged, or lacks a part.
    """
    paths = {Path(name).name: path for name, path in sorted(files.items())}
    first = next(iter(paths.values()))
    if any(_PART.fullmatch(name) for name in paths):
        models = _of_ranks(paths, _PART, "parts of the model")
        found = _partitioned(models, _of_ranks(paths, _OPTIMIZER, "states of the optimizer"))
    else:
        devices = [_whole(path) for path in paths.values()]
        if all(map(is_sequential, devices)):
            return transformers_tensors(list(map(without_sequential, devices)), config, first)
        _refuse_split(devices, first)
        found = devices[0]
    names = without_wrappers(found, str(first))
    return {names[name]: tensor for name, tensor in found.items()}


def _refuse_split(devices: Sequence[Mapping[str, Tensor]], file: Path) -> None:
    """Raise CheckpointError for the parts of a model, of which no rule says how to join them."""
    if len(devices) > 1:
        raise CheckpointError(
            f"{file}: is one of {len(devices)} parts of a model that was split between devices "
            "(tensor parallel): join them with the script of the training code, which knows how"
        )
    if any(name.startswith("language_model.") for name in devices[0]):
        raise CheckpointError(
            f"{file}: has the names of Megatron-LM: convert it with the script of the training "
            "code, for example Megatron-LM's tools/checkpoint/convert.py"
        )


def _whole(file: Path) -> dict[str, Tensor]:
    from pipeline.checkpoints.torch_files import saved_file

    with saved_file(file) as saved:
        return saved.loaded(state_dict_in(saved.content, file, "module"))


def _of_ranks(paths: Mapping[str, Path], pattern: re.Pattern[str], what: str) -> list[Path]:
    """Return the files of all processes in order. Raises CheckpointError if one is missing."""
    found = {
        (int(match[1]), int(match[2])): path
        for name, path in paths.items()
        if (match := pattern.fullmatch(name))
    }
    first = next(iter(paths.values()))
    if any(tensor_rank for _, tensor_rank in found):
        raise CheckpointError(
            f"{first}: is of a model that was split between devices in two ways (ZeRO stage 3 and "
            "tensor parallel), which is not read: join it with the script of the training code"
        )
    ranks = sorted(rank for rank, _ in found)
    if ranks != list(range(len(ranks))) or not ranks:
        raise CheckpointError(
            f"{first.parent}: has the {what} of {_listed(ranks)}, expected those of all "
            "from 0 on: restore the others"
        )
    return [found[rank, 0] for rank in ranks]


def _listed(ranks: Sequence[int]) -> str:
    return f"the processes {shown(ranks)}" if ranks else "no process"


def _partitioned(models: Sequence[Path], optimizers: Sequence[Path]) -> dict[str, Tensor]:
    """Return the parameters and buffers of a model of ZeRO stage 3."""
    from pipeline.checkpoints.torch_files import saved_file

    if len(models) != len(optimizers):
        raise CheckpointError(
            f"{models[0]}: is one of {len(models)} parts of the model, beside {len(optimizers)} of "
            "the optimizer, expected as many: restore the others"
        )
    flat = [_flat_parameters(file, len(optimizers)) for file in optimizers]
    with saved_file(models[0]) as saved:
        content = saved.content
        module = state_dict_in(content, models[0], "module")
        names = content.get("buffer_names") or ()
        buffers = saved.loaded({name: module[name] for name in names if name in module})
    shapes = _shapes(content, "param_shapes", models[0])
    found = _joined(shapes, flat, models[0]) | buffers
    if frozen := _shapes(content, "frozen_param_shapes", models[0]):
        found |= _frozen(frozen, models)
    dtypes = {name: tensor.dtype for name, tensor in module.items()}
    found = {name: tensor.to(dtypes.get(name, tensor.dtype)) for name, tensor in found.items()}
    shared = content.get("shared_params") or {}
    return found | {a: found[b] for a, b in dict(shared).items() if b in found}


def _flat_parameters(file: Path, processes: int) -> Tensor:
    """Return the float32 parameters of one process, in one row."""
    import torch

    from pipeline.checkpoints.torch_files import saved_file

    with saved_file(file) as saved:
        state = (
            saved.content.get("optimizer_state_dict") if isinstance(saved.content, dict) else None
        )
        groups = state.get("fp32_flat_groups") if isinstance(state, dict) else None
        if not isinstance(state, dict) or not _are_rows(groups):
            raise CheckpointError(
                f"{file}: holds no 'fp32_flat_groups', which ZeRO stage 3 saves: {_REMEDY}"
            )
        if state.get("partition_count") not in (processes, [processes]):
            raise CheckpointError(
                f"{file}: is of {state.get('partition_count')!r} processes, and there are files of "
                f"{processes}: restore the others"
            )
        loaded = saved.loaded({str(number): group for number, group in enumerate(groups)})
    return torch.cat([loaded[str(number)] for number in range(len(groups))])


def _joined(
    shapes: Mapping[str, Sequence[int]], flat: Sequence[Tensor], file: Path
) -> dict[str, Tensor]:
    """Return parameters from the rows of all processes. Raises CheckpointError if sizes differ."""
    import torch

    shares = {name: math.ceil(math.prod(shape) / len(flat)) for name, shape in shapes.items()}
    if any(row.numel() != sum(shares.values()) for row in flat):
        raise CheckpointError(
            f"{file}: its parameters have {sum(shares.values()):,} numbers in each process, the "
            f"optimizer's files {shown([row.numel() for row in flat])}: {_REMEDY}"
        )
    found, start = {}, 0
    for name, shape in shapes.items():
        pieces = [row[start : start + shares[name]] for row in flat]
        found[name] = torch.cat(pieces)[: math.prod(shape)].reshape(tuple(shape)).clone()
        start += shares[name]
    return found


def _frozen(shapes: Mapping[str, Sequence[int]], files: Sequence[Path]) -> dict[str, Tensor]:
    """Return the parameters that were not trained, of which the model's files hold the parts."""
    from pipeline.checkpoints.torch_files import saved_file

    parts: list[Mapping[str, Tensor]] = []
    for file in files:
        with saved_file(file) as saved:
            held = state_dict_in(saved.content, file, "frozen_param_fragments")
            parts.append(saved.loaded(held))
    found: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        found |= _joined({name: shape}, [_part(one, name, files[0]) for one in parts], files[0])
    return found


def _part(held: Mapping[str, Tensor], name: str, file: Path) -> Tensor:
    if name not in held:
        raise CheckpointError(f"{file}: lacks its part of {name}: {_REMEDY}")
    return held[name].flatten()


def _shapes(content: Mapping[str, Any], key: str, file: Path) -> dict[str, Sequence[int]]:
    """Return shapes by parameter, of all groups. Raises CheckpointError if there are none."""
    held = content.get(key)
    groups = held if isinstance(held, list) else [held or {}]
    if not all(isinstance(group, Mapping) for group in groups):
        raise CheckpointError(f"{file}: has no shapes under {key!r}: {_REMEDY}")
    return {str(name): shape for group in groups for name, shape in group.items()}


def _are_rows(groups: Any) -> TypeGuard[list[Tensor]]:
    from torch import Tensor

    return (
        isinstance(groups, list)
        and bool(groups)
        and all(isinstance(group, Tensor) and group.ndim == 1 for group in groups)
    )
