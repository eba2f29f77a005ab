"""Convert models of TransformerLens to organisms: describe each, and refuse what none computes."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.checkpoints import hooked_config
from pipeline.checkpoints.hooked_tensors import (
    AXES,
    Weights,
    renamed,
    unit_norms,
    without_constants,
)
from pipeline.checkpoints.shapes import require, sizes_of
from pipeline.errors import InputError


@dataclass(frozen=True)
class Converted:
    """A model as an organism: its config.json, its weights, and notes on what was assumed."""

    config: dict[str, Any]
    weights: Weights
    notes: tuple[str, ...] = ()


_ALWAYS = ("embed.W_E", "pos_embed.W_pos", "unembed.W_U")
_ATTENTION = tuple(f"blocks.#.attn.W_{which}" for which in "QKVO")
_ATTENTION_BIASES = tuple(f"blocks.#.attn.b_{which}" for which in "QKVO")
_MLP = ("blocks.#.mlp.W_in", "blocks.#.mlp.W_out")
_MLP_BIASES = ("blocks.#.mlp.b_in", "blocks.#.mlp.b_out")


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
    converted = renamed(weights)
    if architecture["layer_norm"]:
        converted |= unit_norms(converted, architecture)
    return Converted(architecture, converted, tuple(notes(config, found, sizes)))


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
