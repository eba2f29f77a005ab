"""Weights as TransformerLens names them, as an organism's.

Row convention: W_E is [vocabulary, d_model], W_Q, W_K and W_V are [head, d_model, d_head], W_O is
[head, d_head, d_model], W_in is [d_model, d_mlp], W_out is [d_mlp, d_model] and W_U is
[d_model, vocabulary out]. There is a bias for each.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import InputError, suggestion

Weights = dict[str, Tensor]

# What every converted config.json says of who reads it.
AS_ORGANISM = {"model_type": "ontogeny-organism", "architectures": ["OrganismForCausalLM"]}

_ACTIVATIONS = {"relu": "relu", "gelu": "gelu"}
_NORMS = {None: False, "LN": True, "LNPre": True}
_POSITIONS = {"standard": "residual", "shortformer": "queries_keys"}

# Constants that TransformerLens keeps among the weights.
_CONSTANTS = re.compile(r"\.(attn\.(mask|IGNORE)|hook_\w+)$")
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _turned(tensor: Tensor) -> Tensor:
    return tensor.mT


def _heads_out(tensor: Tensor) -> Tensor:
    return tensor.mT.flatten(0, 1)


def _heads_in(tensor: Tensor) -> Tensor:
    return tensor.flatten(0, 1).mT


# Where a block's tensors go, and how.
_PLACES: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "attn.W_Q": ("self_attn.q_proj.weight", _heads_out),
    "attn.W_K": ("self_attn.k_proj.weight", _heads_out),
    "attn.W_V": ("self_attn.v_proj.weight", _heads_out),
    "attn.b_Q": ("self_attn.q_proj.bias", torch.flatten),
    "attn.b_K": ("self_attn.k_proj.bias", torch.flatten),
    "attn.b_V": ("self_attn.v_proj.bias", torch.flatten),
    "attn.W_O": ("self_attn.o_proj.weight", _heads_in),
    "attn.b_O": ("self_attn.o_proj.bias", _same),
    "mlp.W_in": ("mlp.up_proj.weight", _turned),
    "mlp.b_in": ("mlp.up_proj.bias", _same),
    "mlp.W_out": ("mlp.down_proj.weight", _turned),
    "mlp.b_out": ("mlp.down_proj.bias", _same),
    "ln1.w": ("input_layernorm.weight", _same),
    "ln1.b": ("input_layernorm.bias", _same),
    "ln2.w": ("post_attention_layernorm.weight", _same),
    "ln2.b": ("post_attention_layernorm.bias", _same),
}


def is_transformerlens(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has TransformerLens' names and axes: its W_O is one matrix per head."""
    W_O = state.get("blocks.0.attn.W_O")
    return "embed.W_E" in state and W_O is not None and W_O.ndim == 3


def convert(
    state: Mapping[str, Tensor], config: Mapping[str, Any]
) -> tuple[dict[str, Any], Weights]:
    """The organism's config.json and weights. `config` is the file's own, {} where it has none.

    A model whose outputs are the residues alone (`d_vocab_out` one less than `d_vocab`) gets a row
    of zeros for '='. Raises InputError for architectures that no organism has.
    """
    heads, d_model, d_head = state["blocks.0.attn.W_Q"].shape
    if heads * d_head != d_model:
        raise InputError(
            f"n_heads x d_head = {heads} x {d_head}: expected d_model = {d_model}, as organisms "
            "have it; this model cannot be read"
        )
    described = _architecture(state, config) | {"hidden_size": d_model}
    weights = _renamed(state)
    if described["layer_norm"]:
        weights |= _unit_norms(weights, described)
    return described | {"num_attention_heads": heads}, weights


def described_by(config: Mapping[str, Any]) -> dict[str, Any]:
    """The organism's config.json from a suite's own alone, before any weights are read.

    Of models without MLPs, whose norms were not folded into what follows, and with biases of
    attention, as their training code saves them. Raises InputError for others, KeyError for a size
    that is not said.
    """
    if not config["attn_only"]:
        raise InputError(f"act_fn = {config.get('act_fn')!r}: only models without MLPs are known")
    if config["n_heads"] * config["d_head"] != config["d_model"]:
        raise InputError(f"n_heads x d_head: expected d_model = {config['d_model']}")
    norm = config.get("normalization", config.get("normalization_type", "LN"))
    shortformer = config.get("shortformer_pos") or (
        config.get("positional_embedding_type") == "shortformer"
    )
    return {
        "vocab_size": config["d_vocab"],
        "hidden_size": config["d_model"],
        "num_hidden_layers": config["n_layers"],
        "num_attention_heads": config["n_heads"],
        "intermediate_size": 0,
        "max_position_embeddings": config["n_ctx"],
        "layer_norm": _known("normalization", norm, {None: False, "LN": True}),
        "layer_norm_eps": config.get("ln_eps", config.get("eps", 1e-5)),
        "positions": "queries_keys" if shortformer else "residual",
        "attention_bias": True,
        "lm_head_bias": False,
    }


def renamed(state: Mapping[str, Tensor]) -> Weights:
    """A state dict under an organism's names. A bias of W_U that is zero throughout is left out."""
    bias = state.get("unembed.b_U")
    if bias is not None and not bias.any():
        state = {name: tensor for name, tensor in state.items() if name != "unembed.b_U"}
    return _renamed(state)


def _renamed(state: Mapping[str, Tensor]) -> Weights:
    weights = _outside_of_blocks(state)
    for name, tensor in state.items():
        if match := _BLOCK.fullmatch(name):
            weights |= _in_block(f"model.layers.{match[1]}.", match[2], tensor)
    return weights


def _architecture(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Any]:
    norm = config.get("normalization_type", "LN" if "ln_final.w" in state else None)
    positions = config.get("positional_embedding_type", "standard")
    return {
        "vocab_size": state["embed.W_E"].shape[0],
        "num_hidden_layers": sum(name.endswith("attn.W_O") for name in state),
        "intermediate_size": _size(state, "blocks.0.mlp.W_in", axis=1),
        "max_position_embeddings": state["pos_embed.W_pos"].shape[0],
        "hidden_act": _known("act_fn", config.get("act_fn") or "relu", _ACTIVATIONS),
        "layer_norm": _known("normalization_type", norm, _NORMS),
        "layer_norm_eps": config.get("eps", 1e-5),
        "positions": _known("positional_embedding_type", positions, _POSITIONS),
        "attention_bias": "blocks.0.attn.b_Q" in state,
        "mlp_bias": "blocks.0.mlp.b_in" in state,
        "lm_head_bias": "unembed.b_U" in state,
    }


def _size(state: Mapping[str, Tensor], name: str, axis: int) -> int:
    return state[name].shape[axis] if name in state else 0


def _known(setting: str, value: Any, known: Mapping[Any, Any]) -> Any:
    if value not in known:
        hint = suggestion(str(value), [str(name) for name in known])
        raise InputError(f"{setting} = {value!r}: no organism has it; {hint}")
    return known[value]


def _outside_of_blocks(state: Mapping[str, Tensor]) -> Weights:
    vocabulary = state["embed.W_E"].shape[0]
    weights = {
        "model.embed_tokens.weight": state["embed.W_E"],
        "model.embed_positions.weight": state["pos_embed.W_pos"],
        "lm_head.weight": _padded(state["unembed.W_U"].T, vocabulary),
    }
    if "unembed.b_U" in state:
        weights["lm_head.bias"] = _padded(state["unembed.b_U"], vocabulary)
    if "ln_final.w" in state:
        weights |= {
            "model.norm.weight": state["ln_final.w"],
            "model.norm.bias": state["ln_final.b"],
        }
    return weights


def _padded(rows: Tensor, count: int) -> Tensor:
    missing = count - len(rows)
    if missing not in (0, 1):
        raise InputError(
            f"d_vocab_out = {len(rows)}: expected d_vocab = {count}, or one less (no '=')"
        )
    return torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])])


def _in_block(prefix: str, name: str, tensor: Tensor) -> Weights:
    """One tensor of a block, turned into a Linear's [out, in]."""
    if _CONSTANTS.search(f".{name}"):
        return {}
    if name not in _PLACES:
        raise InputError(f"the tensor {name!r} of a block: no organism has a place for it")
    place, turned = _PLACES[name]
    return {prefix + place: turned(tensor)}


def _unit_norms(weights: Weights, described: Mapping[str, Any]) -> Weights:
    """Gains of 1 and biases of 0 where the norms' own are folded into what follows ("LNPre")."""
    norms = ["model.norm"]
    for layer in range(described["num_hidden_layers"]):
        norms.append(f"model.layers.{layer}.input_layernorm")
        if described["intermediate_size"]:
            norms.append(f"model.layers.{layer}.post_attention_layernorm")
    like = weights["model.embed_tokens.weight"][0]
    units = {f"{norm}.weight": torch.ones_like(like) for norm in norms}
    units |= {f"{norm}.bias": torch.zeros_like(like) for norm in norms}
    return {name: tensor for name, tensor in units.items() if name not in weights}
