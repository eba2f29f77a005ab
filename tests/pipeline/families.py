"""Every decoder family the engine is tested on: tiny, random, and far from uniform attention."""

from collections.abc import Callable

import torch
import transformers as hf
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from pipeline.models.organism_config import OrganismConfig

VOCABULARY, WINDOW = 96, 7

_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_OLD_SHAPE = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = {"num_key_value_heads": 2}
_WINDOWED = {**_GROUPED, "sliding_window": WINDOW}
_GEMMA = {**_WINDOWED, "head_dim": 16}


def _config(kind: type[PreTrainedConfig], **changes: object) -> PreTrainedConfig:
    return kind(**{**_SHAPE, **changes})  # type: ignore[arg-type]


def _old_config(kind: type[PreTrainedConfig], **changes: object) -> PreTrainedConfig:
    return kind(**{**_OLD_SHAPE, **changes})  # type: ignore[arg-type]


Make = Callable[..., PreTrainedConfig]


def _family(make: Make, kind: type[PreTrainedConfig], **changes: object) -> Make:
    return lambda **more: make(kind, **{**changes, **more})


# Families whose attention function transformers looks up by name.
BY_NAME: dict[str, Make] = {
    "organism": _family(_config, OrganismConfig, positions="queries_keys"),
    "organism_smeared": _family(_config, OrganismConfig, smeared_keys=True, lm_head_bias=True),
    "gpt2": _family(_old_config, hf.GPT2Config, scale_attn_by_inverse_layer_idx=True),
    "llama": _family(_config, hf.LlamaConfig, **_GROUPED),
    "gpt_neox": _family(_config, hf.GPTNeoXConfig),
    "olmo": _family(_config, hf.OlmoConfig),
    "olmo2": _family(_config, hf.Olmo2Config),
    "qwen3": _family(_config, hf.Qwen3Config, **_GROUPED, head_dim=16),
    "gemma": _family(_config, hf.GemmaConfig, **_GROUPED, head_dim=16),
    "phi": _family(_config, hf.PhiConfig),
    "phi3": _family(_config, hf.Phi3Config, **_GROUPED),
    "opt": _family(_config, hf.OPTConfig, ffn_dim=64, word_embed_proj_dim=16),
    "granite": _family(
        _config, hf.GraniteConfig, **_GROUPED, logits_scaling=4.0, attention_multiplier=0.3
    ),
    "cohere": _family(_config, hf.CohereConfig, **_GROUPED, logit_scale=0.25),
    "mixtral": _family(_config, hf.MixtralConfig, **_GROUPED, num_local_experts=4),
    "gpt_bigcode": _family(_old_config, hf.GPTBigCodeConfig),
    "persimmon": _family(_config, hf.PersimmonConfig),
    "stablelm": _family(_config, hf.StableLmConfig, **_GROUPED),
    "starcoder2": _family(_config, hf.Starcoder2Config, **_GROUPED),
    "smollm3": _family(_config, hf.SmolLM3Config, **_GROUPED),
    "nemotron": _family(_config, hf.NemotronConfig, **_GROUPED),
    "glm": _family(_config, hf.GlmConfig, **_GROUPED, head_dim=8),
    "biogpt": _family(_config, hf.BioGptConfig),
    "mistral": _family(_config, hf.MistralConfig, **_WINDOWED),
    "olmo3": _family(_config, hf.Olmo3Config, **_WINDOWED),
    "qwen2": _family(
        _config, hf.Qwen2Config, **_WINDOWED, use_sliding_window=True, max_window_layers=1
    ),
    "gemma3": _family(_config, hf.Gemma3TextConfig, **_GEMMA, final_logit_softcapping=3.0),
    "gemma2": _family(
        _config,
        hf.Gemma2Config,
        **_GEMMA,
        attn_logit_softcapping=1.0,
        final_logit_softcapping=3.0,
    ),
    "gpt_oss": _family(
        _config, hf.GptOssConfig, **_GEMMA, num_local_experts=4, num_experts_per_tok=2
    ),
}

# Families with attention code of their own, whose matrices are reduced by hooks.
BY_HOOKS: dict[str, Make] = {
    "gptj": _family(_old_config, hf.GPTJConfig, rotary_dim=4),
    "bloom": lambda **more: hf.BloomConfig(
        **{"hidden_size": 32, "n_layer": 3, "n_head": 4, "vocab_size": VOCABULARY, **more}
    ),
    "falcon": _family(_config, hf.FalconConfig),
    "falcon_alibi": _family(_config, hf.FalconConfig, alibi=True),
    "falcon_grouped": _family(
        _config, hf.FalconConfig, new_decoder_architecture=True, num_kv_heads=2
    ),
    "mpt": lambda **more: hf.MptConfig(
        **{"d_model": 32, "n_layers": 3, "n_heads": 4, "vocab_size": VOCABULARY, **more}
    ),
    "gpt_neo": lambda **more: hf.GPTNeoConfig(
        **{
            "hidden_size": 32,
            "num_layers": 3,
            "num_heads": 4,
            "vocab_size": VOCABULARY,
            "attention_types": [[["global", "local", "global"], 1]],
            "window_size": WINDOW,
            "max_position_embeddings": 64,
            "bos_token_id": 1,
            "eos_token_id": 2,
            **more,
        }
    ),
    "codegen": _family(_old_config, hf.CodeGenConfig, rotary_dim=4),
    "xglm": lambda **more: hf.XGLMConfig(
        **{
            "d_model": 32,
            "num_layers": 3,
            "attention_heads": 4,
            "ffn_dim": 64,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 64,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            **more,
        }
    ),
}

FAMILIES = BY_NAME | BY_HOOKS

# These two mask with the smallest float64 what they keep in float32, and fail or yield NaN.
DTYPES = {name: "float32" if name in ("xglm", "mpt") else "float64" for name in FAMILIES}


def eager_model(config: PreTrainedConfig, dtype: str = "float64") -> PreTrainedModel:
    """Return a model whose large weights make its attention far from uniform; eager path."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", dtype=getattr(torch, dtype)
    )
    model.eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        gain = name.endswith("weight") and parameter.ndim == 1
        parameter.copy_(torch.randn_like(parameter) * 0.3 + float(gain))
    if model._can_set_experts_implementation():
        model.set_experts_implementation("eager")
    return model


@torch.inference_mode()
def matrices(
    model: PreTrainedModel, tokens: Tensor, **arguments: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return attention [layer, sequence, head, query, key], losses and logits."""
    out = model(tokens, output_attentions=True, use_cache=False, **arguments)
    logits = out.logits
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
    )
    return torch.stack(list(out.attentions)), losses.view(len(tokens), -1), logits
