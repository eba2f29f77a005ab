"""Checkpoints of nanochat (karpathy/nanochat, checkpoint_manager.py): `NanoChatForCausalLM`.

    model_001000.pt     the state dict
    meta_001000.json    {"step", "model_config": {sequence_len, vocab_size, n_layer, n_head,
                        n_kv_head, n_embd}, ...}
    optim_001000_rank0.pt

transformers has the model of nanochat's first months (2025): rotations with the base 10,000 and
norms of queries and keys after them, relu², no weights in norms, logits capped at 15. Later ones
have scalars for each layer, value embeddings and windows, which it lacks; they are refused by name.
nanochat rounds the cosines of the rotations to bfloat16 on a GPU; here they are float32.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.checkpoints.formats.renaming import layers_in, renamed, shape_of, without_prefix
from pipeline.checkpoints.formats.settings import refuse_unknown, whole
from pipeline.outside import parsed_json

if TYPE_CHECKING:
    from torch import Tensor

_KNOWN = ("sequence_len", "vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd")
_MODEL = "the nanochat of transformers"
_META = re.compile(r"meta_\d+\.json")
_EPSILON = 2.0**-23  # of torch's rms_norm in float32, whose default it is

_EMBEDDING = "transformer.wte.weight"
_NAMES = {
    _EMBEDDING: "model.embed_tokens.weight",
    "lm_head.weight": "lm_head.weight",
    "transformer.h.#.attn.c_q.weight": "model.layers.#.self_attn.q_proj.weight",
    "transformer.h.#.attn.c_k.weight": "model.layers.#.self_attn.k_proj.weight",
    "transformer.h.#.attn.c_v.weight": "model.layers.#.self_attn.v_proj.weight",
    "transformer.h.#.attn.c_proj.weight": "model.layers.#.self_attn.o_proj.weight",
    "transformer.h.#.mlp.c_fc.weight": "model.layers.#.mlp.fc1.weight",
    "transformer.h.#.mlp.c_proj.weight": "model.layers.#.mlp.fc2.weight",
}
_ROWS_OF_TOKENS = ("model.embed_tokens.weight", "lm_head.weight")


def matches(content: Any) -> bool:
    """Return whether this is a state dict of nanochat."""
    if not isinstance(content, Mapping):
        return False
    names = {str(name).removeprefix("_orig_mod.") for name in content}
    return _EMBEDDING in names and "transformer.h.0.attn.c_q.weight" in names


def config(content: Mapping[str, Any], beside: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the config of the sizes in the meta_*.json beside the file.

    Raises ValueError for a model that transformers does not have.
    """
    settings = _settings(beside)
    layers = whole(settings, "n_layer")
    # A window shorter than the context in all layers but the last; "L" is the whole context.
    windows = str(settings.get("window_pattern", "L"))
    if layers > 1 and set(windows) != {"L"}:
        raise ValueError(
            f"says window_pattern = {windows!r}: transformers has no nanochat with windows"
        )
    refuse_unknown(settings, (*_KNOWN, "window_pattern"), _MODEL)
    heads = whole(settings, "n_head")
    found = state(content)
    tensors(found, {"vocab_size": whole(settings, "vocab_size")})  # refuses tensors of later ones
    if layers_in(found) != layers:
        raise ValueError(f"has {layers_in(found)} layers, and its meta_*.json says {layers}")
    return {
        "model_type": "nanochat",
        "architectures": ["NanoChatForCausalLM"],
        "vocab_size": whole(settings, "vocab_size"),
        "hidden_size": whole(settings, "n_embd"),
        "intermediate_size": shape_of(found, "transformer.h.0.mlp.c_fc.weight")[0],
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": whole(settings, "n_kv_head", heads),
        "max_position_embeddings": whole(settings, "sequence_len"),
        "hidden_act": "relu2",
        "rms_norm_eps": _EPSILON,
        "rope_theta": 10000.0,
        "final_logit_softcapping": 15.0,
        "attention_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def state(content: Mapping[str, Any]) -> dict[str, "Tensor"]:
    """Return the weights by nanochat's names."""
    return without_prefix(content, ())


def tensors(state: Mapping[str, "Tensor"], config: Mapping[str, Any]) -> dict[str, "Tensor"]:
    """Return the weights by transformers' names, without the rows that pad the vocabulary.

    nanochat cuts the logits of these rows off before the softmax.
    """
    found = renamed(state, _NAMES, _MODEL)
    for name in _ROWS_OF_TOKENS:
        shape_of(found, name)
        found[name] = found[name][: int(config["vocab_size"])]
    return found


def assumed(content: Mapping[str, Any]) -> list[str]:
    """Return how the rotations that are computed differ from those of the training."""
    return ["nanochat rounds cosines and sines of rotations to bfloat16; here they are float32"]


def _settings(beside: Mapping[str, bytes]) -> Mapping[str, Any]:
    names = [name for name in beside if _META.fullmatch(name)]
    if not names:
        raise ValueError(
            "is a model of nanochat, and its meta_*.json of the same step is not beside it: put it "
            "there, or give the model's config.json"
        )
    content = parsed_json(beside[names[0]], finite=False)
    settings = content.get("model_config") if isinstance(content, dict) else None
    if not isinstance(settings, dict):
        raise ValueError(f"has a {names[0]} without model_config: restore it")
    return settings
