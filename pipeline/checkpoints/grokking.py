"""Weights as the code published with Nanda et al. 2023 saves them, as an organism's.

Its axes are neither TransformerLens' nor row convention: W_E is [d_model, vocabulary], W_Q, W_K
and W_V are [head, d_head, d_model], W_O is [d_model, head * d_head], W_in is [d_mlp, d_model],
W_out is [d_model, d_mlp] and W_U is [d_model, vocabulary]. Attention has no biases, the MLP has.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pipeline.errors import InputError, suggestion

Weights = dict[str, Tensor]

_LAYER = "blocks.{}."
_ACTIVATIONS = {"ReLU": "relu", "GeLU": "gelu"}

# Names of the operations in the authors' code, and here.
OPERATIONS = {"add": "add", "subtract": "subtract", "x2xyy2": "x2_xy_y2"}


def is_grokking(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the authors' names and axes: their W_O is one matrix."""
    W_O = state.get("blocks.0.attn.W_O")
    return "embed.W_E" in state and W_O is not None and W_O.ndim == 2


def convert(
    state: Mapping[str, Tensor], config: Mapping[str, Any]
) -> tuple[dict[str, Any], Weights]:
    """The organism's config.json and weights. `config` is the file's own, {} where it has none."""
    heads, d_head, d_model = state["blocks.0.attn.W_K"].shape
    if heads * d_head != d_model:
        raise InputError(
            f"{heads} heads of size {d_head}: expected {d_model} in all, as organisms have it"
        )
    n_layers = sum(name.endswith("attn.W_O") for name in state)
    weights = {
        "model.embed_tokens.weight": state["embed.W_E"].T,
        "model.embed_positions.weight": state["pos_embed.W_pos"],
        "lm_head.weight": state["unembed.W_U"].T,
    }
    for layer in range(n_layers):
        weights |= _layer(state, layer)
    described = {
        "vocab_size": weights["model.embed_tokens.weight"].shape[0],
        "hidden_size": d_model,
        "num_hidden_layers": n_layers,
        "num_attention_heads": heads,
        "intermediate_size": state["blocks.0.mlp.W_in"].shape[0],
        "max_position_embeddings": state["pos_embed.W_pos"].shape[0],
        "hidden_act": _activation(config.get("act_type", "ReLU")),
        "layer_norm": False,
        "mlp_bias": True,
    }
    return described, weights


def _layer(state: Mapping[str, Tensor], layer: int) -> Weights:
    theirs, ours = _LAYER.format(layer), f"model.layers.{layer}."
    attention = {
        f"{ours}self_attn.{name}_proj.weight": state[f"{theirs}attn.W_{name.upper()}"].flatten(0, 1)
        for name in "qkv"
    }
    return attention | {
        f"{ours}self_attn.o_proj.weight": state[f"{theirs}attn.W_O"],
        f"{ours}mlp.up_proj.weight": state[f"{theirs}mlp.W_in"],
        f"{ours}mlp.up_proj.bias": state[f"{theirs}mlp.b_in"],
        f"{ours}mlp.down_proj.weight": state[f"{theirs}mlp.W_out"],
        f"{ours}mlp.down_proj.bias": state[f"{theirs}mlp.b_out"],
    }


def _activation(name: str) -> str:
    if name not in _ACTIVATIONS:
        raise InputError(
            f"act_type = {name!r}: expected a known one; {suggestion(name, _ACTIVATIONS)}"
        )
    return _ACTIVATIONS[name]


def table(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the file's config says of the table and its split, as keys of a table input."""
    said = {"operation": OPERATIONS.get(config.get("fn_name", ""))}
    if "frac_train" in config:  # without it `seed` may be that of another library's model
        said |= {
            "p": config.get("p"),
            "train_share": config["frac_train"],
            "split_seed": config.get("seed"),
        }
    known = {key: value for key, value in said.items() if value is not None}
    # Their split is `random.seed(seed)` and a shuffle of all pairs in order.
    return known | ({"split_generator": "random"} if "split_seed" in known else {})
