"""The files of GPT-NeoX: a file for each layer and device, `layer_02-model_00-model_states.pt`.

Layer 0 is the embedding, 2 to n + 1 are the blocks, n + 3 is the last norm and n + 4 the output
embedding; 1 and n + 2 have no tensors. Without pipeline parallelism, all layers of a device are in
`mp_rank_00_model_states.pt` (see `deepspeed.py`), as `sequential.2.…`. A model that was split
between devices (tensor parallel) is joined as by GPT-NeoX's tools/ckpts/convert_neox_to_hf.py: the
rows of the first matrices of attention and MLP and of the embeddings, the columns of the second
ones, whose biases are summed; norms are averaged. Only models of GPT-NeoX's own kind are read, by
the config.json of their conversion to transformers, since the files hold a part of their settings.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.checkpoints.formats.base import Source
from pipeline.checkpoints.formats.parts import (
    by_folder,
    joined,
    refuse_without_config,
    shown,
    state_dict_in,
)
from pipeline.checkpoints.formats.renaming import renamed
from pipeline.errors import CheckpointError

if TYPE_CHECKING:  # listings are made without torch
    from torch import Tensor

_LAYER = re.compile(r"layer_(\d+)-model_(\d+)-model_states\.pt")
_SEQUENTIAL = "sequential."
_REMEDY = "convert it with GPT-NeoX's tools/ckpts/convert_neox_to_hf.py"

_ROWS = re.compile(
    r"(query_key_value|dense_h_to_4h)\.(weight|bias)$|(word_embeddings|final_linear)\.weight$"
)
_COLUMNS = re.compile(r"(attention\.dense|mlp\.dense_4h_to_h)\.weight$")
_SUMMED = re.compile(r"(attention\.dense|mlp\.dense_4h_to_h)\.bias$")
_COMPUTED = r"rotary_emb\.inv_freq$|attention\.(masked_)?bias$"
_BLOCK = {
    f"layers.#.{part}.{kind}": f"gpt_neox.layers.#.{part}.{kind}"
    for kind in ("weight", "bias")
    for part in (
        "attention.query_key_value",
        "attention.dense",
        "mlp.dense_h_to_4h",
        "mlp.dense_4h_to_h",
        "input_layernorm",
        "post_attention_layernorm",
    )
}
_OUTER = {
    "first.word_embeddings.weight": "gpt_neox.embed_in.weight",
    "last.norm.weight": "gpt_neox.final_layer_norm.weight",
    "last.norm.bias": "gpt_neox.final_layer_norm.bias",
    "last.final_linear.weight": "lm_head.weight",
}


def weights(names: Collection[str]) -> list[str]:
    """Return the files of all layers; [] if there are none, or those of several steps."""
    found = {
        folder: [joined(folder, name) for name in files if _LAYER.fullmatch(name)]
        for folder, files in by_folder(names).items()
    }
    held = [files for files in found.values() if files]
    return held[0] if len(held) == 1 else []


def config(source: Source) -> dict[str, Any]:
    """Raise CheckpointError: these files hold only a part of the model's settings."""
    refuse_without_config(source, next(iter(weights(source.names)), ""))


def tensors(files: Mapping[str, Path], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights by the names of transformers' GPT-NeoX.

    Raises CheckpointError, naming the file, if one is damaged or missing, or for another model.
    """
    from pipeline.checkpoints.torch_files import saved_file

    devices: dict[int, dict[str, Tensor]] = {}
    for name, path in sorted(files.items()):
        match = _LAYER.fullmatch(Path(name).name)
        assert match is not None, "these are the files that `weights` names"
        with saved_file(path) as saved:
            held = saved.loaded(state_dict_in(saved.content, path))
        device = devices.setdefault(int(match[2]), {})
        device |= {f"{int(match[1])}.{inner}": tensor for inner, tensor in held.items()}
    first = next(iter(files.values())).parent
    if sorted(devices) != list(range(len(devices))):
        raise CheckpointError(
            f"{first}: has the layers of the devices {shown(sorted(devices))}, expected those of "
            "all from 0 on: restore the others"
        )
    return transformers_tensors([devices[number] for number in sorted(devices)], config, first)


def is_sequential(names: Collection[str]) -> bool:
    """Return whether the names are those of all of GPT-NeoX's layers on one device."""
    return bool(names) and all(name.startswith(_SEQUENTIAL) for name in names)


def without_sequential(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of one device by their layer's number and name."""
    return {name.removeprefix(_SEQUENTIAL): tensor for name, tensor in state.items()}


def transformers_tensors(
    devices: Sequence[Mapping[str, Tensor]], config: Mapping[str, Any], where: Path
) -> dict[str, Tensor]:
    """Return the weights of all devices, joined, by the names of transformers' GPT-NeoX.

    devices: for each, tensors by the number of the layer and the name in it, as in "2.mlp...".
    Raises CheckpointError, naming `where`, if they are not of the model of `config`.
    """
    if config.get("model_type") != "gpt_neox":
        raise CheckpointError(
            f"{where}: is of GPT-NeoX, and its config.json of {config.get('model_type')!r}, "
            f"expected gpt_neox: {_REMEDY}"
        )
    layers = int(config.get("num_hidden_layers", 0))
    names = {name: None for one in devices for name in one}
    if lacking := [name for name in names if any(name not in one for one in devices)]:
        raise CheckpointError(
            f"{where}: its devices do not have the same tensors ({shown(lacking)}): restore it"
        )
    whole = {
        _place(name, layers): _whole(name, [one[name] for one in devices], where)
        for name in devices[0]
    }
    try:
        return renamed(whole, _BLOCK | _OUTER, "GPT-NeoX", _COMPUTED)
    except ValueError as error:
        raise CheckpointError(f"{where}: {error}; {_REMEDY}") from error


def _place(name: str, layers: int) -> str:
    """Return a name with the part of the model that its layer's number stands for."""
    number, _, inner = name.partition(".")
    if not number.isdigit():
        return name
    at = int(number)
    if 2 <= at < layers + 2:
        return f"layers.{at - 2}.{inner}"
    return f"{'first' if at == 0 else 'last' if at in (layers + 3, layers + 4) else at}.{inner}"


def _whole(name: str, parts: Sequence[Tensor], where: Path) -> Tensor:
    """Return a tensor from those of all devices."""
    import torch

    if len(parts) == 1:
        return parts[0]
    try:
        if _ROWS.search(name):
            return torch.cat(list(parts))
        if _COLUMNS.search(name):
            return torch.cat(list(parts), dim=1)
        total = torch.stack(list(parts)).sum(0)
        return total if _SUMMED.search(name) else total / len(parts)
    except (RuntimeError, IndexError) as error:
        raise CheckpointError(
            f"{where}: the parts of {name} do not fit together: restore it, or {_REMEDY}"
        ) from error
