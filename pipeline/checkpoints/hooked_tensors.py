"""The tensors of TransformerLens: their names and axes, and an organism's in their place.

Row convention: W_E is [vocabulary, d_model], W_Q, W_K and W_V are [head, d_model, d_head], W_O is
[head, d_head, d_model], W_in is [d_model, d_mlp], W_out is [d_mlp, d_model] and W_U is
[d_model, vocabulary out]. Each may have a bias.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import InputError

Weights = dict[str, Tensor]

# Constants that TransformerLens saves with the weights.
_CONSTANTS = re.compile(r"\.(attn\.(mask|IGNORE|rotary_(sin|cos))|hook_\w+)$")
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _turned(tensor: Tensor) -> Tensor:
    return tensor.mT


def _heads_out(tensor: Tensor) -> Tensor:
    return tensor.mT.flatten(0, 1)  # [head, d_model, d_head] to [head * d_head, d_model]


def _heads_in(tensor: Tensor) -> Tensor:
    return tensor.flatten(0, 1).mT  # [head, d_head, d_model] to [d_model, head * d_head]


# The organism's name of each tensor in a block, and the change of axes.
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

# The axes of all tensors, those of attention first.
AXES = {
    "blocks.#.attn.W_Q": "n_heads d_model d_head",
    "blocks.#.attn.W_K": "n_heads d_model d_head",
    "blocks.#.attn.W_V": "n_heads d_model d_head",
    "blocks.#.attn.W_O": "n_heads d_head d_model",
    "blocks.#.attn.b_Q": "n_heads d_head",
    "blocks.#.attn.b_K": "n_heads d_head",
    "blocks.#.attn.b_V": "n_heads d_head",
    "blocks.#.attn.b_O": "d_model",
    "blocks.#.mlp.W_in": "d_model d_mlp",
    "blocks.#.mlp.b_in": "d_mlp",
    "blocks.#.mlp.W_out": "d_mlp d_model",
    "blocks.#.mlp.b_out": "d_model",
    "blocks.#.ln1.w": "d_model",
    "blocks.#.ln1.b": "d_model",
    "blocks.#.ln2.w": "d_model",
    "blocks.#.ln2.b": "d_model",
    "ln_final.w": "d_model",
    "ln_final.b": "d_model",
    "embed.W_E": "d_vocab d_model",
    "pos_embed.W_pos": "n_ctx d_model",
    "unembed.W_U": "d_model d_vocab_out",
    "unembed.b_U": "d_vocab_out",
}


def is_transformerlens(state: Mapping[str, Tensor]) -> bool:
    """Return whether a state dict has TransformerLens' names and axes: one W_O per head."""
    W_O = state.get("blocks.0.attn.W_O")
    return "embed.W_E" in state and W_O is not None and W_O.ndim == 3


def without_constants(state: Mapping[str, Tensor]) -> Weights:
    """Return a state dict without the constants that TransformerLens saves in it."""
    return {name: tensor for name, tensor in state.items() if not _CONSTANTS.search(f".{name}")}


def without_zero_bias(state: Mapping[str, Tensor]) -> Weights:
    """Return a state dict without a bias of W_U that is zero."""
    bias = state.get("unembed.b_U")
    is_zero = bias is not None and not bias.any()
    return {name: one for name, one in state.items() if not (is_zero and name == "unembed.b_U")}


def renamed(state: Mapping[str, Tensor]) -> Weights:
    """Return a state dict under an organism's names, with the axes of nn.Linear."""
    weights = _outside_of_blocks(state)
    for name, tensor in state.items():
        if match := _BLOCK.fullmatch(name):
            weights |= _in_block(f"model.layers.{match[1]}.", match[2], tensor)
    return weights


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
    """Return one tensor of a block under its new name, with the axes of nn.Linear: [out, in]."""
    if _CONSTANTS.search(f".{name}"):
        return {}
    if name not in _PLACES:
        raise InputError(f"the tensor {name!r} of a block: no organism has a place for it")
    place, turned = _PLACES[name]
    return {prefix + place: turned(tensor)}


def unit_norms(weights: Weights, described: Mapping[str, Any]) -> Weights:
    """Return gains of 1 and biases of 0 for norms whose own were folded into weights ("LNPre")."""
    norms = ["model.norm"]
    for layer in range(described["num_hidden_layers"]):
        norms.append(f"model.layers.{layer}.input_layernorm")
        if described["intermediate_size"]:
            norms.append(f"model.layers.{layer}.post_attention_layernorm")
    like = weights["model.embed_tokens.weight"][0]
    units = {f"{norm}.weight": torch.ones_like(like) for norm in norms}
    units |= {f"{norm}.bias": torch.zeros_like(like) for norm in norms}
    return {name: tensor for name, tensor in units.items() if name not in weights}
