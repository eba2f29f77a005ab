"""Checkpoints of litgpt: a folder with `lit_model.pth` and `model_config.yaml`.

    {"model": state dict, ...}, or the state dict alone

Two of the families that litgpt can express are those of transformers, number for number: GPT-NeoX
(Pythia and others: LayerNorm, a plain MLP) and Llama (RMSNorm, a gated MLP). All other fields of
litgpt's config that change what is computed are refused by name; its own command
`litgpt convert_from_litgpt` converts further families.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.checkpoints.formats.renaming import renamed, shape_of, without_prefix
from pipeline.checkpoints.formats.settings import (
    divided,
    flag,
    is_plain,
    number,
    refuse_unknown,
    shown_value,
    whole,
)
from pipeline.errors import first_line

if TYPE_CHECKING:
    from torch import Tensor

CONFIG = "model_config.yaml"
_EMBEDDING = "transformer.wte.weight"

# Fields with which the model is computed, or which change nothing that is computed.
_READ = {
    "n_layer", "n_embd", "n_head", "n_query_groups", "head_size", "padded_vocab_size",
    "vocab_size", "block_size", "norm_class_name", "norm_eps", "parallel_residual", "rope_base",
    "rotary_percentage", "rope_adjustments", "intermediate_size", "bias", "mlp_class_name",
    "gelu_approximate", "name", "hf_config", "padding_multiple", "attn_bias",
}  # fmt: skip
# Values of other fields with which they have no effect, beside null and false.
_NO_EFFECT = {
    "norm_qk_type": "default", "rope_condense_ratio": 1, "n_expert": 0, "n_expert_per_token": 0,
    "routed_scaling_factor": 1.0, "norm_1": True, "norm_2": True,
}  # fmt: skip
_MODEL = "a model of litgpt that transformers computes in the same way"

_NEOX = {
    _EMBEDDING: "gpt_neox.embed_in.weight",
    "lm_head.weight": "embed_out.weight",
    **{
        f"{ours}.{part}": f"{theirs}.{part}"
        for ours, theirs in {
            "transformer.ln_f": "gpt_neox.final_layer_norm",
            "transformer.h.#.norm_1": "gpt_neox.layers.#.input_layernorm",
            "transformer.h.#.norm_2": "gpt_neox.layers.#.post_attention_layernorm",
            "transformer.h.#.attn.qkv": "gpt_neox.layers.#.attention.query_key_value",
            "transformer.h.#.attn.proj": "gpt_neox.layers.#.attention.dense",
            "transformer.h.#.mlp.fc": "gpt_neox.layers.#.mlp.dense_h_to_4h",
            "transformer.h.#.mlp.proj": "gpt_neox.layers.#.mlp.dense_4h_to_h",
        }.items()
        for part in ("weight", "bias")
    },
}
_LLAMA = {
    _EMBEDDING: "model.embed_tokens.weight",
    "lm_head.weight": "lm_head.weight",
    "transformer.ln_f.weight": "model.norm.weight",
    "transformer.h.#.norm_1.weight": "model.layers.#.input_layernorm.weight",
    "transformer.h.#.norm_2.weight": "model.layers.#.post_attention_layernorm.weight",
    "transformer.h.#.attn.q.weight": "model.layers.#.self_attn.q_proj.weight",
    "transformer.h.#.attn.k.weight": "model.layers.#.self_attn.k_proj.weight",
    "transformer.h.#.attn.v.weight": "model.layers.#.self_attn.v_proj.weight",
    "transformer.h.#.attn.proj.weight": "model.layers.#.self_attn.o_proj.weight",
    "transformer.h.#.mlp.fc_1.weight": "model.layers.#.mlp.gate_proj.weight",
    "transformer.h.#.mlp.fc_2.weight": "model.layers.#.mlp.up_proj.weight",
    "transformer.h.#.mlp.proj.weight": "model.layers.#.mlp.down_proj.weight",
}


def matches(content: Any) -> bool:
    """Return whether there is a state dict of litgpt in the content."""
    if not isinstance(content, Mapping):
        return False
    names = content["model"] if isinstance(content.get("model"), Mapping) else content
    plain = {str(name).removeprefix("_forward_module.") for name in names}
    first = "transformer.h.0.attn."
    return _EMBEDDING in plain and bool({f"{first}qkv.weight", f"{first}attn.weight"} & plain)


def config(content: Mapping[str, Any], beside: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the config of the family and the sizes in model_config.yaml.

    Raises ValueError for a family or a field that transformers computes in another way.
    """
    settings = _settings(beside)
    _refuse_other_families(settings)
    heads = whole(settings, "n_head")
    width = whole(settings, "n_embd")
    found = state(content)
    shared = {
        "vocab_size": shape_of(found, _EMBEDDING)[0],
        "hidden_size": width,
        "num_hidden_layers": whole(settings, "n_layer"),
        "num_attention_heads": heads,
        "max_position_embeddings": whole(settings, "block_size"),
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if settings["mlp_class_name"] == "GptNeoxMLP":
        return shared | _neox(settings, heads, width, found)
    return shared | _llama(settings, heads, width, found)


def state(content: Mapping[str, Any]) -> dict[str, "Tensor"]:
    """Return the weights by litgpt's names."""
    inner = content.get("model")
    return without_prefix(inner if isinstance(inner, Mapping) else content, ())


def tensors(state: Mapping[str, "Tensor"], config: Mapping[str, Any]) -> dict[str, "Tensor"]:
    """Return the weights by the names of the family in transformers."""
    heads = int(config["num_attention_heads"])
    groups = int(config.get("num_key_value_heads") or heads)
    size = int(config.get("head_dim") or config["hidden_size"] // heads)
    is_neox = config["model_type"] == "gpt_neox"
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        layer, _, part = name.partition(".attn.")
        if not part.startswith(("qkv.", "attn.")):
            found[name] = tensor
            continue
        parts = _by_kind(name, tensor, heads, groups, size)
        if is_neox:
            found[f"{layer}.attn.qkv.{part.split('.')[1]}"] = _side_by_side(parts, heads, size)
            continue
        for kind, one in zip("qkv", parts, strict=True):
            found[f"{layer}.attn.{kind}.{part.split('.')[1]}"] = one
    return renamed(found, _NEOX if is_neox else _LLAMA, _MODEL)


def _neox(
    settings: Mapping[str, Any], heads: int, width: int, found: Mapping[str, "Tensor"]
) -> dict[str, Any]:
    if whole(settings, "n_query_groups", heads) != heads:
        raise ValueError("says n_query_groups < n_head, which GPT-NeoX does not have")
    approximate = settings.get("gelu_approximate", "none")
    return {
        "model_type": "gpt_neox",
        "architectures": ["GPTNeoXForCausalLM"],
        "intermediate_size": shape_of(found, "transformer.h.0.mlp.fc.weight")[0],
        "hidden_act": {"none": "gelu", "tanh": "gelu_pytorch_tanh"}[approximate],
        "layer_norm_eps": number(settings, "norm_eps", 1e-5),
        "use_parallel_residual": flag(settings, "parallel_residual", True),
        "attention_bias": True,
        **_rotations(settings, number(settings, "rotary_percentage", 0.25)),
    }


def _llama(
    settings: Mapping[str, Any], heads: int, width: int, found: Mapping[str, "Tensor"]
) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "intermediate_size": shape_of(found, "transformer.h.0.mlp.fc_1.weight")[0],
        "num_key_value_heads": whole(settings, "n_query_groups", heads),
        "head_dim": whole(settings, "head_size", divided(width, "n_embd", heads, "n_head")),
        "hidden_act": "silu",
        "rms_norm_eps": number(settings, "norm_eps", 1e-5),
        "attention_bias": False,
        "mlp_bias": False,
        **_rotations(settings, 1.0),
    }


def _rotations(settings: Mapping[str, Any], share: float) -> dict[str, Any]:
    """Return the parameters of rotations, as transformers spells them."""
    found: dict[str, Any] = {
        "rope_type": "default",
        "rope_theta": number(settings, "rope_base", 10000.0),
        "partial_rotary_factor": share,
    }
    if adjusted := settings.get("rope_adjustments"):
        names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_seq_len")
        if not isinstance(adjusted, Mapping) or set(adjusted) != set(names):
            raise ValueError(
                f"says rope_adjustments = {shown_value(adjusted)}, expected {', '.join(names)}: "
                "other adjustments are not read"
            )
        found |= {name: number(adjusted, name) for name in names[:3]}
        found["original_max_position_embeddings"] = whole(adjusted, "original_max_seq_len")
        found["rope_type"] = "llama3"
    return {"rope_parameters": found}


def _settings(beside: Mapping[str, bytes]) -> Mapping[str, Any]:
    if CONFIG not in beside:
        raise ValueError(
            f"is a model of litgpt, and its {CONFIG} is not beside it: put it there, or give the "
            "model's config.json"
        )
    import yaml

    try:
        settings = yaml.safe_load(beside[CONFIG])
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"has a {CONFIG} that is no YAML ({first_line(error)})") from error
    # References within a file of YAML can make a value of any size of a few lines.
    if not isinstance(settings, dict) or not is_plain(settings):
        raise ValueError(f"has a {CONFIG} that is no mapping of settings: restore it")
    return settings


def _refuse_other_families(settings: Mapping[str, Any]) -> None:
    """Raise ValueError for fields that neither family of transformers has."""
    others = {
        name: value
        for name, value in settings.items()
        if name not in _READ and _NO_EFFECT.get(name) != value
    }
    refuse_unknown(others, (), _MODEL)
    family = (settings.get("mlp_class_name"), settings.get("norm_class_name"))
    is_neox, is_llama = family == ("GptNeoxMLP", "LayerNorm"), family == ("LLaMAMLP", "RMSNorm")
    wrong = {
        "parallel_residual": is_llama and flag(settings, "parallel_residual", True),
        "bias": flag(settings, "bias", True) is not is_neox,
        "attn_bias": flag(settings, "attn_bias", False),
        "rotary_percentage": is_llama and number(settings, "rotary_percentage", 0.25) != 1.0,
        # Of these two names litgpt computes norms of another kind.
        "name": "Gemma" in str(settings.get("name")) or "OLMo" in str(settings.get("name")),
        "gelu_approximate": settings.get("gelu_approximate", "none") not in ("none", "tanh"),
    }
    fields = [name for name, is_wrong in wrong.items() if is_wrong]
    if not is_neox and not is_llama:
        fields = ["mlp_class_name", "norm_class_name"]
    if fields:
        said = " and ".join(f"{name} = {shown_value(settings.get(name))}" for name in fields)
        raise ValueError(
            f"says {said}: of litgpt's models those like Pythia (GptNeoxMLP, LayerNorm, biases) "
            "and like Llama (LLaMAMLP, RMSNorm, none) are read: convert it with litgpt "
            "convert_from_litgpt"
        )


def _by_kind(
    name: str, tensor: "Tensor", heads: int, groups: int, size: int
) -> tuple["Tensor", "Tensor", "Tensor"]:
    """Return the rows of all queries, keys and values of a fused matrix or bias.

    `attn.qkv` has all queries, then all keys, then all values. `attn.attn`, of litgpt before 0.5.4,
    has each group's queries, key and value in turn.
    """
    if tensor.shape[0] != (heads + 2 * groups) * size:
        raise ValueError(
            f"its tensor {name!r} has {tensor.shape[0]} rows, expected "
            f"{(heads + 2 * groups) * size} by its config"
        )
    rest = tensor.shape[1:]
    if ".attn.qkv." in name:
        query, key, value = tensor.split((heads * size, groups * size, groups * size))
        return query, key, value
    grouped = tensor.reshape(groups, heads // groups + 2, size, *rest)
    query = grouped[:, :-2].reshape(heads * size, *rest)
    return query, grouped[:, -2].reshape(-1, *rest), grouped[:, -1].reshape(-1, *rest)


def _side_by_side(parts: tuple["Tensor", ...], heads: int, size: int) -> "Tensor":
    """Return the rows in GPT-NeoX's order: query, key and value of each head in turn."""
    import torch

    rest = parts[0].shape[1:]
    by_head = torch.stack([one.reshape(heads, size, *rest) for one in parts], dim=1)
    return by_head.reshape(3 * heads * size, *rest)
