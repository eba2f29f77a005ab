"""A small model of every family whose circuits are read."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.models.resident import Resident

LAYERS, HEADS, GROUPS, WIDTH = 2, 4, 2, 32
TAKES_GROUPS = {
    "llama", "mistral", "mixtral", "qwen2", "qwen3", "olmo", "granite", "smollm3", "starcoder2",
    "olmo2", "olmo3", "gemma", "gemma2", "gemma3_text", "phi3", "phi",
}  # fmt: skip


def config_of(family: str):
    sizes = {"vocab_size": 50, "max_position_embeddings": 32, "pad_token_id": 0,
             "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
    match family:
        case "gpt2" | "gptj":
            sizes |= {"n_layer": LAYERS, "n_head": HEADS, "n_embd": WIDTH}
        case "gpt_neo":
            sizes |= {"hidden_size": WIDTH, "num_layers": LAYERS, "num_heads": HEADS,
                      "attention_types": [[["global"], LAYERS]]}  # fmt: skip
        case _:
            sizes |= {"hidden_size": WIDTH, "num_hidden_layers": LAYERS,
                      "num_attention_heads": HEADS, "intermediate_size": 40}  # fmt: skip
    if family in TAKES_GROUPS:
        sizes |= {"num_key_value_heads": GROUPS}
    match family:
        case "gptj":
            sizes |= {"rotary_dim": 4}
        case "opt":
            sizes |= {"ffn_dim": 40, "word_embed_proj_dim": WIDTH}
        case "qwen3" | "gemma" | "gemma2" | "gemma3_text":
            sizes |= {"head_dim": 6}
        case "gpt_neox":
            sizes |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4,
                                          "partial_rotary_factor": 0.25}}  # fmt: skip
    return AutoConfig.for_model(family, **sizes)


def resident(config) -> Resident:
    """Return a float64 model in which no gain is 1 and no bias is 0."""
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(config, dtype=torch.float64)
    made = Resident(config, dtype="float64")
    made.swap({name: p + 0.3 * torch.randn_like(p) for name, p in module.named_parameters()})
    return made
