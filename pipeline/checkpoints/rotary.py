"""Convert models with rotary positions and TransformerLens' names to GPT-NeoX or LLaMA.

No organism has rotary positions. transformers' GPT-NeoX computes models with LayerNorm and
`W_in`, `W_out`, its LLaMA those with RMS norms and gated MLPs; other combinations are refused.

Queries and keys are turned as in TransformerLens' `calculate_sin_cos_rotary` (2.15): dimension i is
paired with i + rotary_dim / 2, and turned by position / rotary_base^(2i / rotary_dim).
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from pipeline.checkpoints import hooked_config, transformerlens
from pipeline.checkpoints.hooked_tensors import AXES, Weights, without_constants
from pipeline.checkpoints.shapes import require, sizes_of
from pipeline.checkpoints.transformerlens import Converted
from pipeline.errors import InputError
from pipeline.outside import is_whole

_AXES = {
    **{name: axes for name, axes in AXES.items() if name != "pos_embed.W_pos"},
    "blocks.#.mlp.W_gate": "d_model d_mlp",
}
_ALWAYS = (
    *("embed.W_E", "unembed.W_U", "blocks.#.mlp.W_in", "blocks.#.mlp.W_out"),
    *(f"blocks.#.attn.W_{which}" for which in "QKVO"),
)
_ALLOWED = {"parallel_attn_mlp": False, "gated_mlp": False}  # of fields that organisms lack


def is_rotary(
    state: Mapping[str, Tensor], config: Mapping[str, Any], given: Mapping[str, Any]
) -> bool:
    """Return whether a model has rotary positions, by its tensors, its config or the analysis."""
    said = {given.get("positional_embedding_type"), config.get("positional_embedding_type")}
    return "rotary" in said or "blocks.0.attn.rotary_sin" in state


def convert(
    state: Mapping[str, Tensor], config: Mapping[str, Any], given: Mapping[str, Any]
) -> Converted:
    """Convert a model with rotary positions. Raises InputError if neither family computes it.

    Arguments as of `transformerlens.convert`.
    """
    weights = without_constants(state)
    found = transformerlens.described(state, config, given)
    if "pos_embed.W_pos" in weights:
        raise InputError(
            "its config says positional_embedding_type = 'rotary', but it has the tensor "
            "'pos_embed.W_pos': it is another model's config"
        )
    convert_to = _family(found)
    sizes = sizes_of(weights, _AXES)
    require(weights, _ALWAYS)
    _check(weights, found, sizes)
    turns = _turns(state, found, sizes["d_head"])
    transformerlens.check_masks(state)
    common = {
        "vocab_size": sizes["d_vocab"],
        "hidden_size": sizes["d_model"],
        "num_hidden_layers": sizes["n_layers"],
        "num_attention_heads": sizes["n_heads"],
        "intermediate_size": sizes["d_mlp"],
        "hidden_act": hooked_config.one_of("act_fn", found["act_fn"], hooked_config.ACTIVATIONS),
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
        **turns,
    }
    described, converted = convert_to(weights, found, sizes)
    notes = tuple(transformerlens.notes(config, found, sizes))
    return Converted(common | described, converted, notes)


_Family = Callable[[Weights, Mapping[str, Any], Mapping[str, int]], tuple[dict[str, Any], Weights]]


def _family(found: Mapping[str, Any]) -> _Family:
    """Return the conversion to the family that computes a model's norms and MLPs."""
    hooked_config.require_given(
        found, {"act_fn": hooked_config.ACTIVATIONS, "normalization_type": ("LN", "RMS")}
    )
    norm, is_gated = found["normalization_type"], bool(found.get("gated_mlp"))
    if norm in ("LN", "LNPre") and not is_gated:
        return _as_gpt_neox
    if norm in ("RMS", "RMSPre") and is_gated and not found.get("parallel_attn_mlp"):
        return _as_llama
    raise InputError(
        f"positional_embedding_type = 'rotary' with normalization_type = {norm!r}, gated_mlp = "
        f"{is_gated} and parallel_attn_mlp = {bool(found.get('parallel_attn_mlp'))}: read are 'LN' "
        "with False, and 'RMS' with gated_mlp = True and no parallel_attn_mlp; this model cannot "
        "be read"
    )


def _check(weights: Weights, found: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    """Raise InputError if a description is another model's, or if neither family computes it."""
    hooked_config.refuse_uncomputable({**found, **_ALLOWED}, sizes)
    hooked_config.check_sizes(found, sizes)
    if found.get("attn_only"):
        raise hooked_config.uncomputable("attn_only", True, "models with MLPs and rotary positions")
    if hooked_config.scale_field(found, sizes["d_head"]):
        raise hooked_config.uncomputable(
            "attn_scale", found.get("attn_scale"), "sqrt(d_head) with rotary positions"
        )
    if sizes["n_heads"] * sizes["d_head"] != sizes["d_model"]:
        raise InputError(
            f"n_heads x d_head = {sizes['n_heads']} x {sizes['d_head']}: expected d_model = "
            f"{sizes['d_model']}; this model cannot be read"
        )
    if sizes["d_vocab_out"] != sizes["d_vocab"]:
        raise InputError(f"d_vocab_out = {sizes['d_vocab_out']}: expected {sizes['d_vocab']}")
    gated = [name for name in weights if "W_gate" in name]
    zero = ["unembed.b_U", *(f"{name.rpartition('.')[0]}.b_in" for name in gated)]
    for name in zero:
        if name in weights and weights[name].any():
            raise InputError(
                f"the tensor {name!r} is not 0, and models with rotary positions are read without "
                "it: this model cannot be read"
            )


def _turns(state: Mapping[str, Tensor], found: Mapping[str, Any], d_head: int) -> dict[str, Any]:
    """Return the config's fields of rotary positions.

    Raises InputError if they are unknown, or if the tables that TransformerLens saves are others.
    """
    tables = {name: one for name, one in state.items() if name.endswith(".attn.rotary_sin")}
    shown: dict[str, Any] = {}
    if tables:
        n_ctx, rotary_dim = next(iter(tables.values())).shape
        shown = {"n_ctx": n_ctx, "rotary_dim": rotary_dim, "rotary_adjacent_pairs": False}
    said = {name: found[name] for name in _TURNS if found.get(name) is not None}
    fields = hooked_config.merged(said, {}, shown)
    hooked_config.require_given(
        fields,
        {"n_ctx": ["length"], "rotary_dim": [d_head], "rotary_adjacent_pairs": ["false"]},
    )
    base = fields.get("rotary_base", 10_000)
    _refuse_other_turns(fields, base, found, d_head)
    for name, table in tables.items():
        if not torch.allclose(table.double(), _sines(table.shape, base), atol=1e-4):
            raise InputError(
                f"the tensor {name!r} is not that of rotary_base = {base}, with pairs of "
                "dimensions that are rotary_dim / 2 apart: this model cannot be read"
            )
    return {
        "max_position_embeddings": fields["n_ctx"],
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": float(base),
            "partial_rotary_factor": fields["rotary_dim"] / d_head,
        },
    }


_TURNS = ("n_ctx", "rotary_dim", "rotary_base", "rotary_adjacent_pairs")


def _refuse_other_turns(
    fields: Mapping[str, Any], base: Any, found: Mapping[str, Any], d_head: int
) -> None:
    if fields["rotary_adjacent_pairs"]:
        raise hooked_config.uncomputable("rotary_adjacent_pairs", True, "False")
    if found.get("use_NTK_by_parts_rope"):
        raise hooked_config.uncomputable("use_NTK_by_parts_rope", True, "False")
    dim = fields["rotary_dim"]
    if not is_whole(dim, least=2, most=d_head) or dim % 2:
        raise hooked_config.uncomputable("rotary_dim", dim, f"even numbers up to d_head = {d_head}")
    if not isinstance(base, int | float) or isinstance(base, bool) or not base > 0:
        raise hooked_config.uncomputable("rotary_base", base, "a positive number")
    if not is_whole(fields["n_ctx"], least=1):
        raise hooked_config.uncomputable("n_ctx", fields["n_ctx"], "a length of at least 1")


def _sines(shape: torch.Size, base: float) -> Tensor:
    """Return sin(position / base^(2i / rotary_dim)) for each position, and i twice over."""
    n_ctx, dim = shape
    rates = float(base) ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = torch.arange(n_ctx, dtype=torch.float64)[:, None] * rates
    return torch.cat([angles, angles], dim=-1).sin()


def _as_gpt_neox(
    weights: Weights, found: Mapping[str, Any], sizes: Mapping[str, int]
) -> tuple[dict[str, Any], Weights]:
    """Return the config and weights of a GPT-NeoX, whose biases are 0 where the model has none."""
    has_bias = "blocks.0.attn.b_Q" in weights
    described = {
        "model_type": "gpt_neox",
        "architectures": ["GPTNeoXForCausalLM"],
        "layer_norm_eps": hooked_config.epsilon(found),
        "use_parallel_residual": bool(found.get("parallel_attn_mlp")),
        "attention_bias": has_bias,
    }
    converted = {
        "gpt_neox.embed_in.weight": weights["embed.W_E"],
        "embed_out.weight": weights["unembed.W_U"].T,
        **_norm(weights, "ln_final", "gpt_neox.final_layer_norm", found, sizes, bias=True),
    }
    for layer in range(sizes["n_layers"]):
        block, ours = f"blocks.{layer}.", f"gpt_neox.layers.{layer}."
        fused = torch.stack([weights[f"{block}attn.W_{one}"].mT for one in "QKV"], dim=1)
        converted |= {
            f"{ours}attention.query_key_value.weight": fused.flatten(0, 2),
            f"{ours}attention.dense.weight": weights[f"{block}attn.W_O"].flatten(0, 1).T,
            f"{ours}mlp.dense_h_to_4h.weight": weights[f"{block}mlp.W_in"].T,
            f"{ours}mlp.dense_4h_to_h.weight": weights[f"{block}mlp.W_out"].T,
            f"{ours}mlp.dense_h_to_4h.bias": _bias(weights, f"{block}mlp.b_in", sizes["d_mlp"]),
            f"{ours}mlp.dense_4h_to_h.bias": _bias(weights, f"{block}mlp.b_out", sizes["d_model"]),
            **_norm(weights, f"{block}ln1", f"{ours}input_layernorm", found, sizes, bias=True),
            **_norm(
                weights, f"{block}ln2", f"{ours}post_attention_layernorm", found, sizes, bias=True
            ),
        }
        if has_bias:
            biases = torch.stack([weights[f"{block}attn.b_{one}"] for one in "QKV"], dim=1)
            converted[f"{ours}attention.query_key_value.bias"] = biases.flatten()
            converted[f"{ours}attention.dense.bias"] = weights[f"{block}attn.b_O"]
    return described, converted


def _as_llama(
    weights: Weights, found: Mapping[str, Any], sizes: Mapping[str, int]
) -> tuple[dict[str, Any], Weights]:
    """Return the config and weights of a LLaMA; a bias of the MLP's output needs two of 0."""
    has_bias, mlp_bias = "blocks.0.attn.b_Q" in weights, "blocks.0.mlp.b_out" in weights
    described = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "rms_norm_eps": hooked_config.epsilon(found),
        "num_key_value_heads": sizes["n_heads"],
        "attention_bias": has_bias,
        "mlp_bias": mlp_bias,
    }
    converted = {
        "model.embed_tokens.weight": weights["embed.W_E"],
        "lm_head.weight": weights["unembed.W_U"].T,
        **_norm(weights, "ln_final", "model.norm", found, sizes, bias=False),
    }
    for layer in range(sizes["n_layers"]):
        block, ours = f"blocks.{layer}.", f"model.layers.{layer}."
        for name, theirs in (("gate", "W_gate"), ("up", "W_in"), ("down", "W_out")):
            converted[f"{ours}mlp.{name}_proj.weight"] = weights[f"{block}mlp.{theirs}"].T
        if mlp_bias:
            zeros = weights[f"{block}mlp.W_in"].new_zeros(sizes["d_mlp"])
            converted |= {f"{ours}mlp.{one}_proj.bias": zeros for one in ("gate", "up")}
            converted[f"{ours}mlp.down_proj.bias"] = weights[f"{block}mlp.b_out"]
        for norm, name in (("ln1", "input_layernorm"), ("ln2", "post_attention_layernorm")):
            converted |= _norm(weights, f"{block}{norm}", f"{ours}{name}", found, sizes, bias=False)
        converted |= dict(_attention(weights, block, f"{ours}self_attn.", has_bias))
    return described, converted


def _attention(
    weights: Weights, block: str, ours: str, has_bias: bool
) -> Iterator[tuple[str, Tensor]]:
    for name in "qkv":
        yield f"{ours}{name}_proj.weight", weights[f"{block}attn.W_{name.upper()}"].mT.flatten(0, 1)
        if has_bias:
            yield f"{ours}{name}_proj.bias", weights[f"{block}attn.b_{name.upper()}"].flatten()
    yield f"{ours}o_proj.weight", weights[f"{block}attn.W_O"].flatten(0, 1).T
    if has_bias:
        yield f"{ours}o_proj.bias", weights[f"{block}attn.b_O"]


def _norm(
    weights: Weights,
    theirs: str,
    ours: str,
    found: Mapping[str, Any],
    sizes: Mapping[str, int],
    bias: bool,
) -> Weights:
    """Return a norm's gain and bias; 1 and 0 if its own are folded into other weights ("LNPre")."""
    if not str(found["normalization_type"]).endswith("Pre"):
        require(weights, [f"{theirs}.w", *([f"{theirs}.b"] if bias else [])])
    ones = torch.ones_like(weights["embed.W_E"][0])
    return {f"{ours}.weight": weights.get(f"{theirs}.w", ones)} | (
        {f"{ours}.bias": _bias(weights, f"{theirs}.b", sizes["d_model"])} if bias else {}
    )


def _bias(weights: Weights, name: str, size: int) -> Tensor:
    return weights.get(name, weights["embed.W_E"].new_zeros(size))
