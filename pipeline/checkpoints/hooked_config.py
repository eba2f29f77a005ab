"""Translate TransformerLens' HookedTransformerConfig to an organism's config, or refuse it.

Every field that changes the forward pass is translated or refused by name. Fields that are in none
of the lists below are refused, since they may change it. Fields and defaults are those of
TransformerLens 2.15 (`transformer_lens/HookedTransformerConfig.py`), whose attention divides its
scores by `attn_scale`, by default sqrt(d_head), and by the number of the layer, from 1, if
`scale_attn_by_inverse_layer_idx` is set.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

from pipeline.errors import InputError, suggestion

# The keys of every converted config.json that select the organism's class.
AS_ORGANISM = {"model_type": "ontogeny-organism", "architectures": ["OrganismForCausalLM"]}

# Activations that are the same functions in TransformerLens and transformers.
ACTIVATIONS = {
    name: name for name in ("relu", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "silu")
}
NORMS = {None: False, "LN": True, "LNPre": True}
POSITIONS = {"standard": "residual", "shortformer": "queries_keys"}

# Fields that change the forward pass, with the defaults that apply if a config lacks them.
DEFAULTS: dict[str, Any] = {
    "positional_embedding_type": "standard",
    "eps": 1e-5,
    "use_attn_scale": True,
    "attn_scale": -1.0,
    "scale_attn_by_inverse_layer_idx": False,
    "attention_dir": "causal",
    "parallel_attn_mlp": False,
    "use_local_attn": False,
    "attn_types": None,
    "window_size": None,
    "gated_mlp": False,
    "final_rms": False,
    "post_embedding_ln": False,
    "use_normalization_before_and_after": False,
    "attn_scores_soft_cap": -1.0,
    "output_logits_soft_cap": -1.0,
    "n_key_value_heads": None,
    "num_experts": None,
    "load_in_4bit": False,
}

# Fields of which an organism computes the default only; None is accepted instead of False.
_DEFAULT_ALONE = (
    "attention_dir",
    "parallel_attn_mlp",
    "gated_mlp",
    "final_rms",
    "post_embedding_ln",
    "use_normalization_before_and_after",
    "num_experts",
    "load_in_4bit",
)
_SOFT_CAPS = ("attn_scores_soft_cap", "output_logits_soft_cap")

# Fields that must agree with the shapes of the tensors.
SIZES = ("n_layers", "d_model", "d_head", "n_heads", "d_mlp", "d_vocab", "d_vocab_out", "n_ctx")
_UNSET = (None, -1)

# Fields without effect on the forward pass: names, hooks, devices, initialisation, and those that
# are used only with settings that are refused (rotary and relative positions, experts).
_HARMLESS = """
    model_name original_architecture tokenizer_name tokenizer_prepends_bos default_prepend_bos
    from_checkpoint checkpoint_index checkpoint_label_type checkpoint_value n_params seed
    use_attn_result use_split_qkv_input use_hook_mlp_in use_attn_in use_hook_tokens
    ungroup_grouped_query_attention device n_devices dtype trust_remote_code
    init_mode initializer_range init_weights tie_word_embeddings decoder_start_token_id
    rotary_dim rotary_base rotary_adjacent_pairs use_NTK_by_parts_rope NTK_by_parts_low_freq_factor
    NTK_by_parts_high_freq_factor NTK_by_parts_factor NTK_original_ctx_len experts_per_token
    relative_attention_max_distance relative_attention_num_buckets
"""

# Fields about the run and its task that training code keeps in the same dictionary.
_TRAINING = """
    p fn_name operation frac_train train_frac train_fraction train_share num_epochs n_epochs epochs
    num_steps n_steps steps lr learning_rate weight_decay wd betas beta1 beta2 momentum optimizer
    optimizer_name scheduler lr_schedule warmup_steps batch_size batch_style grad_clip max_grad_norm
    save_models save_every save_dir stopping_thresh take_metrics_every_n_epochs checkpoint_every
    log_every eval_every data_seed name run_name notes wandb wandb_project wandb_entity
"""
_KNOWN = frozenset(
    {"act_fn", "normalization_type", "attn_only", *DEFAULTS, *SIZES}
    | {*_HARMLESS.split(), *_TRAINING.split()}
)


def merged(
    config: Mapping[str, Any], given: Mapping[str, Any], shown: Mapping[str, Any]
) -> dict[str, Any]:
    """Merge the fields of a model from its file, from the analysis, and from its tensors.

    config: from the file. given: from the analysis. shown: from the tensors. Raises InputError if
    two of them contradict each other.
    """
    found = dict(shown)
    sources = dict.fromkeys(shown, "its tensors show")
    for words, said in (("its config says", config), ("`model` of the analysis gives", given)):
        for name, value in said.items():
            if name in found and not _equal(found[name], value):
                raise InputError(
                    f"{sources[name]} {name} = {found[name]!r}, but {words} {value!r}: correct the "
                    "one that is wrong"
                )
            found[name], sources[name] = value, sources.get(name, words)
    return found


def refuse_unknown(
    config: Mapping[str, Any], known: Collection[str], ignored: Collection[str]
) -> None:
    """Raise InputError for a field of a file's config whose effect is unknown.

    known: fields of the file's format beside TransformerLens' own. ignored: fields that the
    analysis declares to be without effect.
    """
    everything = {*_KNOWN, *known, *ignored}
    if unknown := sorted(str(name) for name in config if name not in everything):
        value = config.get(unknown[0])
        raise InputError(
            f"its config has {unknown[0]} = {value!r}, an unknown field that may change the "
            f"forward pass; if it does not, give `model: {{ignore: [{', '.join(unknown)}]}}` in "
            "the analysis"
        )


def says_something(*descriptions: Mapping[str, Any]) -> bool:
    """Return whether one of them has a field that changes the forward pass."""
    changing = {"act_fn", "normalization_type", *DEFAULTS}
    return any(changing & description.keys() for description in descriptions)


def refuse_unknown_forms(found: Mapping[str, Any]) -> None:
    """Raise InputError, naming the field, for norms, positions or neurons that no organism has.

    Checked before the tensors, whose names then differ too.
    """
    one_of("normalization_type", found.get("normalization_type"), NORMS)
    one_of("positional_embedding_type", found.get("positional_embedding_type", "standard"),
           POSITIONS)  # fmt: skip
    if found.get("act_fn") is not None:
        one_of("act_fn", found["act_fn"], ACTIVATIONS)
    for name in ("gated_mlp", "num_experts"):
        if found.get(name):
            raise uncomputable(name, found[name], repr(DEFAULTS[name]))


def require_given(found: Mapping[str, Any], needed: Mapping[str, Collection[Any]]) -> None:
    """Raise InputError, naming what to give, if a needed field is unknown.

    needed: fields with their possible values.
    """
    missing = {name: values for name, values in needed.items() if name not in found}
    if not missing:
        return
    choices = "; ".join(
        f"{name}: {', '.join('null (none)' if value is None else str(value) for value in values)}"
        for name, values in missing.items()
    )
    example = ", ".join(f"{name}: ..." for name in missing)
    raise InputError(
        f"has no {' and no '.join(missing)}, and the forward pass depends on it: give "
        f"`model: {{{example}}}` in the analysis, or --model NAME=VALUE ({choices})"
    )


def check_sizes(found: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    """Raise InputError if a size in a config is not that of the tensors."""
    for name in SIZES:
        said = found.get(name)
        if said not in _UNSET and name in sizes and said != sizes[name]:
            raise InputError(
                f"its config says {name} = {said!r}, but its tensors have {sizes[name]}: it is "
                "another model's config"
            )


def refuse_uncomputable(found: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    """Raise InputError, naming the field, for a model with a forward pass that no organism has."""
    for name in _DEFAULT_ALONE:
        value = found.get(name, DEFAULTS[name])
        if value != DEFAULTS[name] and not (value is None and DEFAULTS[name] is False):
            raise uncomputable(name, value, repr(DEFAULTS[name]))
    for name, default in DEFAULTS.items():
        if isinstance(default, bool) and not isinstance(found.get(name), bool | None):
            raise uncomputable(name, found[name], "True or False")
    for name in _SOFT_CAPS:
        value = found.get(name)
        if value is not None and not (_is_number(value) and value <= 0):
            raise uncomputable(name, value, "none (-1.0)")
    shared = found.get("n_key_value_heads")
    if shared is not None and shared != sizes.get("n_heads"):
        raise uncomputable("n_key_value_heads", shared, "one key and value for each head")
    said = found.get("attn_types")
    types = said if said and isinstance(said, list | tuple) else ["local"]
    if found.get("use_local_attn") and any(one != "global" for one in types):
        raise uncomputable("use_local_attn", True, "False, or attn_types that are all 'global'")
    if found.get("scale_attn_by_inverse_layer_idx") and sizes.get("n_layers", 2) > 1:
        raise uncomputable("scale_attn_by_inverse_layer_idx", True, "False")


def scale_field(found: Mapping[str, Any], d_head: int) -> dict[str, float]:
    """Return the organism's field for the factor of attention scores; {} for the usual one."""
    scale = _attention_scale(found, d_head)
    return {} if scale is None else {"attention_scale": scale}


def _attention_scale(found: Mapping[str, Any], d_head: int) -> float | None:
    """Return the factor of attention scores, None for the usual 1 / sqrt(d_head)."""
    if not found.get("use_attn_scale", True):
        return 1.0
    divisor = found.get("attn_scale", -1.0)
    if divisor is None or divisor == -1.0:
        return None
    if not _is_number(divisor) or not math.isfinite(divisor) or divisor <= 0:
        raise uncomputable("attn_scale", divisor, "a positive number")
    return None if math.isclose(divisor, math.sqrt(d_head), rel_tol=1e-6) else 1.0 / divisor


def epsilon(found: Mapping[str, Any]) -> float:
    """Return the number that norms add to the variance. Raises InputError if it is not valid."""
    eps = found.get("eps", DEFAULTS["eps"])
    if not _is_number(eps) or not math.isfinite(eps) or eps < 0:
        raise uncomputable("eps", eps, "a number that is not negative")
    return float(eps)


def one_of(name: str, value: Any, known: Mapping[Any, Any]) -> Any:
    """Return an organism's value for that of a field. Raises InputError if there is none."""
    if not isinstance(value, str | None) or value not in known:
        hint = suggestion(str(value), [str(one) for one in known])
        raise InputError(f"{name} = {value!r}: no organism has it; {hint}")
    return known[value]


def unsaid(found: Mapping[str, Any]) -> list[str]:
    """Return the unknown fields that change the forward pass, as `name = default`."""
    return [f"{name} = {value}" for name, value in DEFAULTS.items() if name not in found]


def uncomputable(name: str, value: Any, computed: str) -> InputError:
    """Return the error for a field whose value no organism computes."""
    return InputError(
        f"{name} = {value!r}: organisms compute {computed} only, and this changes the forward "
        "pass: this model cannot be read"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _equal(one: Any, other: Any) -> bool:
    # With a tolerance, since a file may have saved a number in float32.
    if _is_number(one) and _is_number(other):
        return math.isclose(one, other, rel_tol=1e-6)
    return type(one) is type(other) and one == other
