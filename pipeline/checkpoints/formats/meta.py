"""Meta's own Llama files: `consolidated.00.pth` (and 01, 02, ...) with `params.json`.

Each file is the state dict of one device of Meta's tensor parallelism: its part of the rows of
W_Q, W_K, W_V, W_1, W_3 and the unembedding, of the columns of W_O, W_2 and (Llama 1 and 2) of the
embedding, whose rows are divided in Llama 3; norms are whole in each file. params.json is that of
`ModelArgs` in Meta's code (llama-models, llama3/args.py); `vocab_size` may be -1.

Not in the files: the base of rotations of Llama 1 and 2, 10,000; the context, which is taken to be
that of the generation; and the factor of `use_scaled_rope`, which is 8 in Meta's code.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.checkpoints.formats.meta_names import (
    EMBEDDING,
    QUERY,
    UP,
    are_meta_names,
    renamed_llama,
)
from pipeline.checkpoints.formats.renaming import shape_of
from pipeline.checkpoints.formats.settings import divided, flag, number, refuse_unknown, whole
from pipeline.errors import CheckpointError
from pipeline.outside import json_object

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.checkpoints.formats.base import Source

CONFIG = "params.json"
_SHARD = re.compile(r"consolidated\.(\d\d)\.pth")
_KNOWN = (
    "dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of", "ffn_dim_multiplier",
    "norm_eps", "rope_theta", "use_scaled_rope", "rope_scaling_factor", "max_seq_len",
    "max_batch_size", "model_parallel_size",
)  # fmt: skip
_MODEL = "Meta's Llama"

_ROWS = re.compile(r"\.(wq|wk|wv|w1|w3)\.weight$|^output\.weight$")
_COLUMNS = re.compile(r"\.(wo|w2)\.weight$")


def weights(names: Collection[str]) -> list[str]:
    """Return the consolidated files, in order; [] if there are none."""
    return sorted(name for name in names if _SHARD.fullmatch(name))


def config(source: "Source") -> dict[str, Any]:
    """Return the config of a Llama of the sizes in params.json and in the files."""
    files = weights(source.names)
    if CONFIG not in source.names:
        raise CheckpointError(
            f"{source.uri}/{CONFIG}: is missing, though {files[0]} is there: restore it, or give "
            "the model's config.json"
        )
    where = f"{source.uri}/{CONFIG}"
    params = json_object(source.read(CONFIG), where, CheckpointError)
    try:
        return _config(params, source.described(files[0]), len(files))
    except ValueError as error:
        raise CheckpointError(f"{where}: {error}") from error


def assumed(source: "Source") -> list[str]:
    """Return the values that params.json lacks and `config` takes for them."""
    params = json_object(source.read(CONFIG), f"{source.uri}/{CONFIG}", CheckpointError)
    made = config(source)
    rotations = made["rope_parameters"]
    found = {
        "max_seq_len": made["max_position_embeddings"],
        "rope_theta": rotations["rope_theta"],
    } | ({"rope_scaling_factor": rotations["factor"]} if "factor" in rotations else {})
    taken = [f"{name} = {value:g}" for name, value in found.items() if params.get(name) is None]
    return [f"{CONFIG} does not say {', '.join(taken)}: taken from Meta's code"] if taken else []


def tensors(files: Mapping[str, Path], config: Mapping[str, Any]) -> dict[str, "Tensor"]:
    """Return the weights by the names of transformers' Llama, the parts of each joined."""
    from pipeline.checkpoints.torch_files import named, saved_file

    shards: list[dict[str, Tensor]] = []
    for name in weights(files):
        with saved_file(files[name]) as file:
            _refuse_other_names(file.content)
            shards.append(file.loaded(file.content))
    with named(str(files[weights(files)[0]])):
        return renamed_llama(_joined(shards, int(config["hidden_size"])), config, _MODEL)


def _config(params: Mapping[str, Any], first: Any, count: int) -> dict[str, Any]:
    refuse_unknown(params, _KNOWN, _MODEL)
    _refuse_other_names(first)
    heads, width = whole(params, "n_heads"), whole(params, "dim")
    rows, columns = shape_of(first, EMBEDDING)
    _refuse_missing(shape_of(first, QUERY)[0], count, width)
    scaled = flag(params, "use_scaled_rope", False)
    theta = number(params, "rope_theta", 10000.0)
    rotations: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    if scaled:
        rotations |= {
            "rope_type": "llama3",
            "factor": number(params, "rope_scaling_factor", 8.0),
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": rows if columns * count == width else rows * count,
        "hidden_size": width,
        "intermediate_size": shape_of(first, UP)[0] * count,
        "num_hidden_layers": whole(params, "n_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": whole(params, "n_kv_heads", heads),
        "head_dim": divided(width, "dim", heads, "n_heads"),
        "max_position_embeddings": whole(params, "max_seq_len", _context(params, theta, scaled)),
        "rms_norm_eps": number(params, "norm_eps"),
        "rope_parameters": rotations,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def _refuse_missing(rows: int, count: int, width: int) -> None:
    """Raise ValueError unless the rows of W_Q in so many files are those of a whole model."""
    if rows * count != width:
        raise ValueError(
            f"says dim = {width}, and {count} files with {rows} rows of W_Q each are there: "
            "restore the other consolidated files"
        )


def _context(params: Mapping[str, Any], theta: float, scaled: bool) -> int:
    """Return the context of the generation: Llama 3.1, Code Llama, 3, 1 (by its epsilon) or 2."""
    if scaled:
        return 131072
    if theta == 1e6:
        return 16384
    if theta > 1e4:
        return 8192
    return 2048 if params.get("norm_eps") == 1e-6 else 4096


def _refuse_other_names(content: Any) -> None:
    from pipeline.checkpoints.formats.plain import is_state

    if not is_state(content) or not are_meta_names(content):
        raise ValueError(f"the file holds no state dict with the names of {_MODEL}: restore it")


def _joined(shards: list[dict[str, "Tensor"]], width: int) -> dict[str, "Tensor"]:
    """Return whole tensors. Raises ValueError if a file lacks one, or has another shape of it."""
    found: dict[str, Tensor] = {}
    for name, tensor in shards[0].items():
        if lacking := [number for number, one in enumerate(shards) if name not in one]:
            raise ValueError(f"holds {name!r}, and file {lacking[0]} does not: restore it")
        parts = [one[name] for one in shards]
        if any(one.shape != tensor.shape for one in parts):
            raise ValueError(f"its tensor {name!r} has another shape in other files: restore them")
        found[name] = _whole(name, parts, width)
    return found


def _whole(name: str, parts: list["Tensor"], width: int) -> "Tensor":
    import torch

    if len(parts) == 1:
        return parts[0]
    if _ROWS.search(name):
        return torch.cat(parts)
    if _COLUMNS.search(name):
        return torch.cat(parts, dim=1)
    if name == EMBEDDING:
        return torch.cat(parts, dim=1 if parts[0].shape[1] * len(parts) == width else 0)
    return parts[0]
