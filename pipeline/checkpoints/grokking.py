"""Convert weights saved by the code published with Nanda et al. 2023 to an organism's.

Its axes are neither TransformerLens' nor row convention: W_E is [d_model, vocabulary], W_Q, W_K
and W_V are [head, d_head, d_model], W_O is [d_model, head * d_head], W_in is [d_mlp, d_model],
W_out is [d_model, d_mlp] and W_U is [d_model, vocabulary]. The MLP has biases, attention has none.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from pipeline.checkpoints import hooked_config
from pipeline.checkpoints.hooked_tensors import Weights
from pipeline.checkpoints.shapes import require, sizes_of
from pipeline.checkpoints.transformerlens import Converted
from pipeline.errors import InputError
from pipeline.outside import is_whole

_LAYER = "blocks.{}."
_ACT_TYPES = {"ReLU": "relu", "GeLU": "gelu"}
_ACTIVATIONS = {"relu": "relu", "gelu": "gelu"}

# The axes of all tensors, those of attention first.
_AXES = {
    "blocks.#.attn.W_K": "n_heads d_head d_model",
    "blocks.#.attn.W_Q": "n_heads d_head d_model",
    "blocks.#.attn.W_V": "n_heads d_head d_model",
    "blocks.#.attn.W_O": "d_model d_inner",
    "blocks.#.mlp.W_in": "d_mlp d_model",
    "blocks.#.mlp.b_in": "d_mlp",
    "blocks.#.mlp.W_out": "d_model d_mlp",
    "blocks.#.mlp.b_out": "d_model",
    "embed.W_E": "d_model d_vocab",
    "pos_embed.W_pos": "n_ctx d_model",
    "unembed.W_U": "d_model d_vocab",
}

# Properties of the authors' code that no config changes, by TransformerLens' names.
_FIXED = {
    "normalization_type": None,
    "positional_embedding_type": "standard",
    "attention_dir": "causal",
    "use_attn_scale": True,
    "scale_attn_by_inverse_layer_idx": False,
    "parallel_attn_mlp": False,
    "use_local_attn": False,
    "gated_mlp": False,
    "post_embedding_ln": False,
    "use_normalization_before_and_after": False,
    "num_experts": None,
}
# Names in its config with those of TransformerLens, and the fields it has beside the usual ones.
_SAID = {"num_layers": "n_layers", "num_heads": "n_heads"}
_FIELDS = ("num_layers", "num_heads", "act_type", "use_ln", "d_head", "is_train_is_test")

# Names of operations in the authors' code, with those in `pipeline.inputs.modular`.
OPERATIONS = {"add": "add", "subtract": "subtract", "x2xyy2": "x2_xy_y2"}


def is_grokking(state: Mapping[str, Tensor]) -> bool:
    """Return whether a state dict has the authors' names and axes: their W_O is one matrix."""
    W_O = state.get("blocks.0.attn.W_O")
    return "embed.W_E" in state and W_O is not None and W_O.ndim == 2


def convert(
    state: Mapping[str, Tensor], config: Mapping[str, Any], given: Mapping[str, Any]
) -> Converted:
    """Convert a model to an organism with the attention and positions of the authors' code.

    config: the file's own, {} if it has none. given: fields from the analysis, by TransformerLens'
    names; `act_fn` is required if the file has no `act_type`. Raises InputError for models that
    neither an organism nor that code computes.
    """
    weights = {name: tensor for name, tensor in state.items() if not name.endswith(".attn.mask")}
    sizes = sizes_of(weights, _AXES)
    require(weights, _AXES)
    if not sizes["d_inner"] == sizes["n_heads"] * sizes["d_head"] == sizes["d_model"]:
        raise InputError(
            f"n_heads x d_head = {sizes['n_heads']} x {sizes['d_head']} and W_O has "
            f"{sizes['d_inner']} inputs: expected d_model = {sizes['d_model']} of both, as "
            "organisms have it; this model cannot be read"
        )
    found = _described(config, given, sizes)
    described = {
        "vocab_size": sizes["d_vocab"],
        "hidden_size": sizes["d_model"],
        "num_hidden_layers": sizes["n_layers"],
        "num_attention_heads": sizes["n_heads"],
        "intermediate_size": sizes["d_mlp"],
        "max_position_embeddings": sizes["n_ctx"],
        "hidden_act": hooked_config.one_of("act_fn", found["act_fn"], _ACTIVATIONS),
        "layer_norm": False,
        "mlp_bias": True,
    }
    converted = {
        "model.embed_tokens.weight": state["embed.W_E"].T,
        "model.embed_positions.weight": state["pos_embed.W_pos"],
        "lm_head.weight": state["unembed.W_U"].T,
    }
    for layer in range(sizes["n_layers"]):
        converted |= _layer(state, layer)
    return Converted(described, converted, tuple(_notes(config)))


def _described(
    config: Mapping[str, Any], given: Mapping[str, Any], sizes: Mapping[str, int]
) -> dict[str, Any]:
    """Return the fields from file, authors' code and analysis, by TransformerLens' names."""
    hooked_config.refuse_unknown(config, _FIELDS, given.get("ignore", ()))
    if config.get("use_ln"):
        raise InputError(
            "use_ln = True: the tensors hold no norms, which that code would not have used: give "
            "a config of this model"
        )
    said = {theirs: config[ours] for ours, theirs in _SAID.items() if ours in config}
    said |= {name: config[name] for name in ("d_model", "d_vocab", "n_ctx", "d_mlp")
             if name in config}  # fmt: skip
    if "act_type" in config:
        act_type = config["act_type"]
        said["act_fn"] = hooked_config.one_of("act_type", act_type, _ACT_TYPES)
    answers = {name: value for name, value in given.items() if name != "ignore"}
    found = hooked_config.merged(said, answers, _FIXED)
    hooked_config.require_given(found, {"act_fn": _ACTIVATIONS})
    hooked_config.check_sizes(found, sizes)
    return found


def _notes(config: Mapping[str, Any]) -> Iterator[str]:
    if "act_type" not in config:
        yield (
            "the files have no act_type: act_fn is taken from `model` of the analysis, and not "
            "verified"
        )


def _layer(state: Mapping[str, Tensor], layer: int) -> Weights:
    theirs, ours = _LAYER.format(layer), f"model.layers.{layer}."
    # Their axes are [head, d_head, d_model], nn.Linear's are [head * d_head, d_model]; all other
    # matrices are [outputs, inputs] in both.
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


def table(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table and split in a file's config, as keys of a table input."""
    name, share = config.get("fn_name"), config.get("frac_train")
    said: dict[str, Any] = {"operation": OPERATIONS.get(name) if isinstance(name, str) else None}
    # Without the share, `seed` may be that of another library's model.
    if isinstance(share, float) and 0 < share < 1:
        said |= {
            key: config.get(theirs) if is_whole(config.get(theirs)) else None
            for key, theirs in (("p", "p"), ("split_seed", "seed"))
        }
        said["train_share"] = share
    known = {key: value for key, value in said.items() if value is not None}
    # The authors' code splits by `random.seed(seed)` and a shuffle of all pairs in row-major order.
    return known | ({"split_generator": "random"} if "split_seed" in known else {})
