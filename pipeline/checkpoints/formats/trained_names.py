"""The names that a trainer's own model gives to tensors which transformers names otherwise.

torchtitan's Llama has those of Meta's code. OLMo-core has its own; in its blocks of OLMo 2 and 3
the norms come after attention and MLP, and are the ones of those names in transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.checkpoints.formats.meta_names import are_meta_names, renamed_llama
from pipeline.checkpoints.formats.renaming import renamed

if TYPE_CHECKING:  # listings are made without torch
    from torch import Tensor

_OLMO_CORE = {
    "embeddings.weight": "model.embed_tokens.weight",
    "lm_head.norm.weight": "model.norm.weight",
    "lm_head.w_out.weight": "lm_head.weight",
    **{
        f"blocks.#.{theirs}.{part}": f"model.layers.#.{ours}.{part}"
        for part in ("weight", "bias")
        for theirs, ours in {
            "attention.w_q": "self_attn.q_proj",
            "attention.w_k": "self_attn.k_proj",
            "attention.w_v": "self_attn.v_proj",
            "attention.w_out": "self_attn.o_proj",
            "attention.q_norm": "self_attn.q_norm",
            "attention.k_norm": "self_attn.k_norm",
            "feed_forward.w1": "mlp.gate_proj",
            "feed_forward.w2": "mlp.down_proj",
            "feed_forward.w3": "mlp.up_proj",
        }.items()
    },
}
_NORMS_AFTER = {
    "blocks.#.attention_norm.weight": "model.layers.#.post_attention_layernorm.weight",
    "blocks.#.feed_forward_norm.weight": "model.layers.#.post_feedforward_layernorm.weight",
}
_NORMS_BEFORE = {
    "blocks.#.attention_norm.weight": "model.layers.#.input_layernorm.weight",
    "blocks.#.feed_forward_norm.weight": "model.layers.#.post_attention_layernorm.weight",
}
# By `model_type`, as OLMo-core's own conversion (olmo_core/nn/hf/convert.py) has them.
_NORMS = {
    "olmo2": _NORMS_AFTER, "olmo3": _NORMS_AFTER,
    "llama": _NORMS_BEFORE, "qwen2": _NORMS_BEFORE, "qwen3": _NORMS_BEFORE,
}  # fmt: skip


def by_transformers_names(
    state: Mapping[str, Tensor], config: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Return tensors by transformers' names, those of other models than these as they are.

    Raises ValueError if the model of `config` is not one that the trainer's model can be.
    """
    if are_meta_names(state):
        _require(config, ("llama",), "torchtitan's or Meta's Llama")
        return renamed_llama(state, config, "torchtitan's Llama")
    if "embeddings.weight" in state and "blocks.0.attention.w_q.weight" in state:
        _require(config, tuple(_NORMS), "OLMo-core")
        return renamed(state, _OLMO_CORE | _NORMS[config["model_type"]], "a model of OLMo-core")
    return dict(state)


def _require(config: Mapping[str, Any], types: tuple[str, ...], whose: str) -> None:
    if config.get("model_type") not in types:
        raise ValueError(
            f"has the names of {whose}, and its config.json is of {config.get('model_type')!r}, "
            f"expected {' or '.join(types)}: give the config.json of its conversion to transformers"
        )
