"""Tiny models of every recurrent or hybrid family that transformers has, by their `model_type`."""

from typing import Any, NamedTuple

import pytest
import torch
import transformers
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

VOCABULARY = 101

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 4, "intermediate_size": 64,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
_UNGROUPED = {**_HEADS, "num_key_value_heads": 4}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
_MAMBA_2 = {
    "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 2,
    "mamba_chunk_size": 8,
}  # fmt: skip
_DELTA = {
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "layer_types": ["linear_attention", "full_attention"] * 2,
}  # fmt: skip
_SHARED_EXPERT = {**_EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 32}
_LATENT = {
    **_UNGROUPED, **_EXPERTS, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "v_head_dim": 8,
    "qk_nope_head_dim": 8, "num_local_experts": 4,
    "layer_types": ["linear_attention", "full_attention"] * 2,
}  # fmt: skip


class Made(NamedTuple):
    """The settings of a tiny model, and those of its layers that attend."""

    attending: tuple[int, ...]
    settings: dict[str, Any]


READ: dict[str, Made] = {
    "mamba": Made((), {"state_size": 8, "time_step_rank": 4}),
    "mamba2": Made((), {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 2,
                        "chunk_size": 8}),
    "falcon_mamba": Made((), {"state_size": 8, "time_step_rank": 4}),
    "rwkv": Made((), {"attention_hidden_size": 32, "context_length": 64}),
    "xlstm": Made((), {"num_heads": 4, "embedding_dim": 32, "chunk_size": 16}),
    "jamba": Made((1, 3), {**_HEADS, "mamba_d_state": 8, "mamba_dt_rank": 4, "num_experts": 4,
                           "attn_layer_period": 2, "attn_layer_offset": 1,
                           "expert_layer_period": 2}),
    "zamba": Made((1, 3), {**_UNGROUPED, "mamba_d_state": 8, "mamba_dt_rank": 4, "head_dim": 16,
                           "n_mamba_heads": 2, "attention_head_dim": 16,
                           "layers_block_type": ["mamba", "hybrid"] * 2}),
    "zamba2": Made((1, 3), {**_UNGROUPED, "mamba_d_state": 8, "mamba_ngroups": 2,
                            "n_mamba_heads": 8, "mamba_headdim": 8, "chunk_size": 8,
                            "num_mem_blocks": 1, "layers_block_type": ["mamba", "hybrid"] * 2}),
    "bamba": Made((1, 3), {**_HEADS, **_MAMBA_2, "attn_layer_indices": [1, 3]}),
    "falcon_h1": Made((0, 1, 2, 3), {**_HEADS, **_MAMBA_2, "mamba_d_ssm": 64,
                                     "lm_head_multiplier": 0.4}),
    "granitemoehybrid": Made((1, 3), {**_HEADS, **_MAMBA_2,
                                      "layer_types": ["mamba", "attention"] * 2,
                                      "num_local_experts": 4, "num_experts_per_tok": 2,
                                      "shared_intermediate_size": 64, "logits_scaling": 3.0}),
    "nemotron_h": Made((1,), {**_HEADS, **_EXPERTS, "mamba_num_heads": 8, "mamba_head_dim": 8,
                              "layers_block_type": ["mamba", "attention", "mamba", "moe"],
                              "ssm_state_size": 8, "n_groups": 2, "chunk_size": 8,
                              "n_routed_experts": 4, "moe_shared_expert_intermediate_size": 32}),
    "recurrent_gemma": Made((1, 3), {**_HEADS, "block_types": ["recurrent", "attention"],
                                     "lru_width": 32, "attention_window_size": 16}),
    "qwen3_next": Made((1, 3), {**_HEADS, **_DELTA, **_SHARED_EXPERT}),
    "qwen3_5_text": Made((1, 3), {**_HEADS, **_DELTA}),
    "qwen3_5_moe_text": Made((1, 3), {**_HEADS, **_DELTA, **_SHARED_EXPERT}),
    "olmo_hybrid": Made((1, 3), {**_HEADS, **_DELTA, "linear_num_key_heads": 4}),
    "kimi_linear": Made((1, 3), {**_LATENT, "linear_head_dim": 8, "linear_num_heads": 4}),
    "bailing_hybrid": Made((1, 3), {**_LATENT, "n_group": 1, "topk_group": 1,
                                    "num_mtp_layers": 0}),
    "minimax": Made((1, 3), {**_HEADS, "layer_types": ["linear_attention", "full_attention"] * 2,
                             "num_local_experts": 4, "block_size": 16}),
    "lfm2": Made((1, 3), {**_HEADS, "layer_types": ["conv", "full_attention"] * 2}),
    "lfm2_moe": Made((1, 3), {**_HEADS, **_EXPERTS, "layer_types": ["conv", "full_attention"] * 2,
                              "num_experts": 4, "num_dense_layers": 1}),
    "lfm3": Made((2, 4), {**_HEADS, "sliding_window": 16, "num_hidden_layers": 6}),
}  # fmt: skip

_INKLING = {
    **_HEADS, **_EXPERTS, "unpadded_vocab_size": VOCABULARY, "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2, "swa_head_dim": 8, "d_rel": 4, "rel_extent": 64,
    "sliding_window_size": 16, "n_routed_experts": 4,
}  # fmt: skip

# Families whose forward pass is refused, each with a word of the reason.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "qwen4_exp_text": (
        {**_HEADS, **_DELTA, **_SHARED_EXPERT, "indexer_n_heads": 2, "indexer_kv_heads": 1,
         "indexer_head_dim": 8, "indexer_budget": 8, "indexer_compress_ratio": 2, "hc_count": 2,
         "hc_lowrank": 4, "ngram_vocab_size_base": 101, "split_ngram_parts": 2,
         "ple_embed_dim": 8, "make_ngram_vocab_size_divisible_by": 4, "heads_per_ngram": 2},
        "this model reads the attention mask itself",
    ),
    "inkling_text": ({**_INKLING, "n_shared_experts": 1}, "passes position_bias"),
    "inkling2_text": (_INKLING, "passes position_bias"),
}  # fmt: skip


def config_of(family: str, **changes: object) -> PreTrainedConfig:
    """Return the config of a tiny model of a family; skip the test if transformers lacks it."""
    if family not in CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {family}")
    settings = READ[family].settings if family in READ else REFUSED[family][0]
    return AutoConfig.for_model(family, **{**_SHAPE, **settings, **changes})


def plain_model(config: PreTrainedConfig, seed: int = 0) -> PreTrainedModel:
    """Return transformers' own model, its eager attention far from uniform."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    model.eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        # Not the rates of a recurrence and its convolution, which random numbers make unstable.
        if parameter.ndim > 1 and not any(part in name for part in ("A_log", "conv", "time_")):
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model
