"""Convert weights with TransformerLens' names and axes to an organism's.

Row convention: W_E is [vocabulary, d_model], W_Q, W_K and W_V are [head, d_model, d_head], W_O is
[head, d_head, d_model], W_in is [d_model, d_mlp], W_out is [d_mlp, d_model] and W_U is
[d_model, vocabulary out]. Each may have a bias.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.checkpoints import hooked_config
from pipeline.checkpoints.shapes import require, sizes_of
from pipeline.errors import InputError

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Converted:
    """A model as an organism: its config.json, its weights, and notes on what was assumed."""

    config: dict[str, Any]
    weights: Weights
    notes: tuple[str, ...] = ()


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
_ALWAYS = ("embed.W_E", "pos_embed.W_pos", "unembed.W_U")
_ATTENTION = tuple(f"blocks.#.attn.W_{which}" for which in "QKVO")
_ATTENTION_BIASES = tuple(f"blocks.#.attn.b_{which}" for which in "QKVO")
_MLP = ("blocks.#.mlp.W_in", "blocks.#.mlp.W_out")
_MLP_BIASES = ("blocks.#.mlp.b_in", "blocks.#.mlp.b_out")


def is_transformerlens(state: Mapping[str, Tensor]) -> bool:
    """Return whether a state dict has TransformerLens' names and axes: one W_O per head."""
    W_O = state.get("blocks.0.attn.W_O")
    return "embed.W_E" in state and W_O is not None and W_O.ndim == 3


def convert(
    state: Mapping[str, Tensor], config: Mapping[str, Any], given: Mapping[str, Any]
) -> Converted:
    """Convert a model to an organism.

    config: the file's own, {} if it has none. given: fields from the analysis. A model whose
    outputs are the residues only (`d_vocab_out` one less than `d_vocab`) gets a row of zeros for
    '='. Raises InputError for models that no organism computes, see `hooked_config`.
    """
    weights, answers = without_constants(state), answers_in(given)
    found = described(state, config, given)
    hooked_config.refuse_unknown_forms(found)
    sizes = _sizes(weights)
    _check(state, found, sizes, hooked_config.says_something(config, answers))
    architecture = _architecture(state, found, sizes)
    converted = _renamed(weights)
    if architecture["layer_norm"]:
        converted |= _unit_norms(converted, architecture)
    return Converted(architecture, converted, tuple(notes(config, found, sizes)))


def without_constants(state: Mapping[str, Tensor]) -> Weights:
    """Return a state dict without the constants that TransformerLens saves in it."""
    return {name: tensor for name, tensor in state.items() if not _CONSTANTS.search(f".{name}")}


def answers_in(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of TransformerLens' config that the analysis gives."""
    return {name: value for name, value in given.items() if name != "ignore"}


def described(
    state: Mapping[str, Tensor], config: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the fields of a model from its file, the analysis and its tensors.

    Raises InputError for fields that are unknown or contradict each other, and for a kind of
    neurons that only the tensors show.
    """
    hooked_config.refuse_unknown(config, (), given.get("ignore", ()))
    found = hooked_config.merged(config, answers_in(given), dict(_shown(state)))
    if "blocks.0.mlp.ln.w" in state and "act_fn" not in found:
        raise InputError(
            "has the tensor 'blocks.0.mlp.ln.w', so that act_fn is solu_ln or gelu_ln: no organism "
            "has it, this model cannot be read"
        )
    return found


def _shown(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Any]]:
    """Yield the fields that tensors show: norms without biases are taken to be RMS norms."""
    if "ln_final.w" in state:
        has_bias = any(re.search(r"(^|\.)ln(1|2|_final)\.b$", name) for name in state)
        yield "normalization_type", "LN" if has_bias else "RMS"
    if "blocks.0.attn.rotary_sin" in state:
        yield "positional_embedding_type", "rotary"
    if "blocks.0.mlp.W_gate" in state:
        yield "gated_mlp", True


def renamed(state: Mapping[str, Tensor]) -> Weights:
    """Return a state dict under an organism's names, without a bias of W_U that is zero."""
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


def _sizes(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the model's sizes. Raises InputError if tensors are missing or have other shapes."""
    sizes = sizes_of(weights, AXES)
    require(weights, (*_ALWAYS, *_ATTENTION))
    for group in (_ATTENTION_BIASES, _MLP, _MLP_BIASES):
        if any(name.replace("#", "0") in weights for name in group):
            require(weights, (*group, *(_MLP if group is _MLP_BIASES else ())))
    if sizes["n_heads"] * sizes["d_head"] != sizes["d_model"]:
        raise InputError(
            f"n_heads x d_head = {sizes['n_heads']} x {sizes['d_head']}: expected d_model = "
            f"{sizes['d_model']}, as organisms have it; this model cannot be read"
        )
    return sizes


def _check(
    state: Mapping[str, Tensor],
    found: Mapping[str, Any],
    sizes: Mapping[str, int],
    said: bool,
) -> None:
    """Raise InputError if a description is incomplete, another model's or not computable.

    said: the file or the analysis has fields that change the forward pass.
    """
    has_mlp = "d_mlp" in sizes
    norms = (None, "LNPre")
    activation = {"act_fn": hooked_config.ACTIVATIONS} if has_mlp else {}
    hooked_config.require_given(found, {**activation, "normalization_type": norms})
    if not said:
        hooked_config.require_given(found, {"positional_embedding_type": hooked_config.POSITIONS})
    if found.get("attn_only", not has_mlp) == has_mlp:
        raise InputError(
            f"its config says attn_only = {found['attn_only']!r}, but it has "
            f"{'an MLP' if has_mlp else 'no MLP'}: it is another model's config"
        )
    hooked_config.check_sizes(found, {"d_mlp": 0, **sizes} if has_mlp else sizes)
    hooked_config.refuse_uncomputable(found, sizes)
    if found["normalization_type"] == "LN":
        blocks = ("ln1",) + (("ln2",) if has_mlp else ())
        parts = [f"blocks.#.{norm}.{part}" for norm in blocks for part in "wb"]
        require(state, ("ln_final.w", "ln_final.b", *parts))
    elif any(".ln" in name for name in state):
        raise InputError("has norms in its blocks and no ln_final: save the whole model")
    check_masks(state)


def check_masks(state: Mapping[str, Tensor]) -> None:
    """Raise InputError for a mask that is not causal, such as the band of local attention."""
    for name, mask in state.items():
        if name.endswith(".attn.mask") and not torch.equal(mask.bool(), mask.bool().tril()):
            raise InputError(f"the tensor {name!r} is no causal mask: this model cannot be read")
        if name.endswith(".attn.mask") and not mask.bool()[torch.ones_like(mask).tril() > 0].all():
            raise InputError(
                f"the tensor {name!r} hides earlier tokens, as local attention does, which no "
                "organism computes: this model cannot be read"
            )


def _architecture(
    state: Mapping[str, Tensor], found: Mapping[str, Any], sizes: Mapping[str, int]
) -> dict[str, Any]:
    positions = found.get("positional_embedding_type", "standard")
    norm, activation = found["normalization_type"], found.get("act_fn", "relu")
    has_mlp = "d_mlp" in sizes
    return {
        "vocab_size": sizes["d_vocab"],
        "hidden_size": sizes["d_model"],
        "num_hidden_layers": sizes["n_layers"],
        "num_attention_heads": sizes["n_heads"],
        "intermediate_size": sizes.get("d_mlp", 0),
        "max_position_embeddings": sizes["n_ctx"],
        "hidden_act": hooked_config.one_of("act_fn", activation, hooked_config.ACTIVATIONS)
        if has_mlp
        else "relu",
        "layer_norm": hooked_config.one_of("normalization_type", norm, hooked_config.NORMS),
        "layer_norm_eps": hooked_config.epsilon(found),
        "positions": hooked_config.one_of(
            "positional_embedding_type", positions, hooked_config.POSITIONS
        ),
        "attention_bias": "blocks.0.attn.b_Q" in state,
        "mlp_bias": "blocks.0.mlp.b_in" in state,
        "lm_head_bias": "unembed.b_U" in state,
    } | hooked_config.scale_field(found, sizes["d_head"])


def notes(
    config: Mapping[str, Any], found: Mapping[str, Any], sizes: Mapping[str, int]
) -> Iterator[str]:
    """Yield sentences on what was assumed, and on what the results do not cover."""
    if "attention_dir" not in config:  # present in every complete HookedTransformerConfig
        yield (
            "the files hold no complete config of TransformerLens: values are taken from `model` "
            f"of the analysis, else its defaults ({', '.join(hooked_config.unsaid(found))}); "
            "neither is verified"
        )
    if sizes["d_vocab_out"] < sizes["d_vocab"]:
        yield (
            f"d_vocab_out = {sizes['d_vocab_out']}: the last token has no output, and gets a logit "
            "of 0; measures of modular arithmetic leave it out"
        )


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


def _unit_norms(weights: Weights, described: Mapping[str, Any]) -> Weights:
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
