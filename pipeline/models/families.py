"""The names and layouts, in each family of models, of the matrices of the circuits papers."""

from dataclasses import dataclass, replace
from typing import Literal

from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Family:
    """The names of a family's matrices; those of a layer follow `layer`, with its number for {}.

    qkv: three names, or one of a fused matrix whose columns are "side by side" (all queries, all
    keys, all values) or "interleaved" (query, key and value of the first head, of the second, ...).
    offset: 1 if a norm multiplies by 1 + weight. output_norm: between W_O and the stream.
    rows_are_inputs: matrices are stored as [inputs, outputs], as by transformers' Conv1D, and not
    transposed as by nn.Linear. norms_stream: a norm after attention normalises the stream itself,
    not what is added to it. embedding_scaled: embeddings are multiplied by sqrt(d_model).
    rms_epsilon: the setting with the epsilon of an RMS norm, where its name is that of a LayerNorm.
    """

    embedding: str = "model.embed_tokens"
    layer: str = "model.layers.{}"
    norm: str = "input_layernorm"
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    fused: Literal["side by side", "interleaved"] = "side by side"
    query_norm: str = "self_attn.q_norm"
    key_norm: str = "self_attn.k_norm"
    output: str = "self_attn.o_proj"
    output_norm: str = ""
    final_norm: str = "model.norm"
    unembedding: str = "lm_head"
    offset: float = 0.0
    rows_are_inputs: bool = False
    norms_stream: bool = False
    embedding_scaled: bool = False
    rms_epsilon: str = ""


_LLAMA = Family()
_POST_NORM = Family(norm="", output_norm="post_attention_layernorm")
_GEMMA = Family(offset=1.0, embedding_scaled=True)
_GEMMA_2 = replace(_GEMMA, output_norm="post_attention_layernorm")
_GPT_J = Family(
    embedding="transformer.wte",
    layer="transformer.h.{}",
    norm="ln_1",
    qkv=("attn.q_proj", "attn.k_proj", "attn.v_proj"),
    output="attn.out_proj",
    final_norm="transformer.ln_f",
)

FAMILIES: dict[str, Family] = {
    "ontogeny-organism": _LLAMA,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "mixtral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "olmo": _LLAMA,
    "granite": _LLAMA,
    "smollm3": _LLAMA,
    "starcoder2": _LLAMA,
    "olmo2": _POST_NORM,
    "olmo3": _POST_NORM,
    "gemma": _GEMMA,
    "gemma2": _GEMMA_2,
    "gemma3_text": _GEMMA_2,
    "phi3": Family(qkv=("self_attn.qkv_proj",)),
    "phi": Family(output="self_attn.dense", final_norm="model.final_layernorm"),
    "opt": Family(
        embedding="model.decoder.embed_tokens",
        layer="model.decoder.layers.{}",
        norm="self_attn_layer_norm",
        output="self_attn.out_proj",
        final_norm="model.decoder.final_layer_norm",
    ),
    "gptj": _GPT_J,
    "gpt_neo": replace(
        _GPT_J,
        qkv=("attn.attention.q_proj", "attn.attention.k_proj", "attn.attention.v_proj"),
        output="attn.attention.out_proj",
    ),
    "gpt2": replace(_GPT_J, qkv=("attn.c_attn",), output="attn.c_proj", rows_are_inputs=True),
    "gpt_neox": Family(
        embedding="gpt_neox.embed_in",
        layer="gpt_neox.layers.{}",
        qkv=("attention.query_key_value",),
        fused="interleaved",
        output="attention.dense",
        final_norm="gpt_neox.final_layer_norm",
    ),
}


_MAMBA = Family(
    embedding="backbone.embeddings",
    layer="backbone.layers.{}",
    norm="norm",
    final_norm="backbone.norm_f",
    rms_epsilon="layer_norm_epsilon",
)
_JAMBA = Family(final_norm="model.final_layernorm")
_LFM2 = Family(
    norm="operator_norm",
    query_norm="self_attn.q_layernorm",
    key_norm="self_attn.k_layernorm",
    output="self_attn.out_proj",
    final_norm="model.embedding_norm",
    rms_epsilon="norm_eps",
)

# Those of which some layers do not attend, or none does: such layers have no matrices of heads.
RECURRENT: dict[str, Family] = {
    "mamba": _MAMBA,
    "mamba2": _MAMBA,
    "falcon_mamba": _MAMBA,
    "rwkv": Family(
        embedding="rwkv.embeddings",
        layer="rwkv.blocks.{}",
        norm="ln1",
        final_norm="rwkv.ln_out",
        unembedding="head",
    ),
    "xlstm": Family(
        embedding="backbone.embeddings",
        layer="backbone.blocks.{}",
        norm="norm_mlstm",
        final_norm="backbone.out_norm",
        rms_epsilon="norm_eps",
    ),
    "jamba": _JAMBA,
    "bamba": _JAMBA,
    "falcon_h1": _JAMBA,
    "granitemoehybrid": _LLAMA,
    "nemotron_h": Family(
        embedding="model.embeddings",
        norm="norm",
        qkv=("mixer.q_proj", "mixer.k_proj", "mixer.v_proj"),
        output="mixer.o_proj",
        final_norm="model.norm_f",
        rms_epsilon="layer_norm_epsilon",
    ),
    "recurrent_gemma": Family(
        norm="temporal_pre_norm",
        qkv=("temporal_block.q_proj", "temporal_block.k_proj", "temporal_block.v_proj"),
        output="temporal_block.o_proj",
        final_norm="model.final_norm",
        offset=1.0,
        embedding_scaled=True,
    ),
    "lfm2": _LFM2,
    "lfm2_moe": _LFM2,
}


def family_of(config: PreTrainedConfig) -> Family | None:
    """Return the names of a model's matrices by its config; None for families not described."""
    family = FAMILIES.get(config.model_type) or RECURRENT.get(config.model_type)
    if family is not None and not getattr(config, "do_layer_norm_before", True):
        # OPT-350m's config: norms follow each block, and there is no final one.
        return replace(family, norm="", norms_stream=True)
    return family
