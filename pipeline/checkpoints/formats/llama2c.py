"""Checkpoints of llama2.c (karpathy/llama2.c, train.py): a small Llama with Meta's names.

    {"model": state dict, "optimizer", "model_args": {dim, n_layers, n_heads, n_kv_heads,
    vocab_size, multiple_of, max_seq_len, dropout}, "iter_num", "best_val_loss", "config"}

`output.weight` is the embedding, and its rotations have the base 10,000.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.checkpoints.formats.meta_names import UP, are_meta_names, renamed_llama
from pipeline.checkpoints.formats.renaming import shape_of, without_prefix
from pipeline.checkpoints.formats.settings import number, refuse_unknown, whole
from pipeline.checkpoints.inert import values_of

if TYPE_CHECKING:
    from torch import Tensor

_KNOWN = (
    "dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "hidden_dim", "multiple_of",
    "norm_eps", "max_seq_len", "dropout",
)  # fmt: skip
_MODEL = "llama2.c's model"


def matches(content: Any) -> bool:
    """Return whether this is what llama2.c's train.py saves."""
    if not isinstance(content, Mapping) or not isinstance(content.get("model"), Mapping):
        return False
    settings = values_of(content.get("model_args"))
    return settings is not None and "dim" in settings and "n_heads" in settings


def config(content: Mapping[str, Any], beside: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the config of a Llama of the sizes in `model_args`."""
    settings = values_of(content["model_args"]) or {}
    refuse_unknown(settings, _KNOWN, _MODEL)
    heads = whole(settings, "n_heads")
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": whole(settings, "vocab_size"),
        "hidden_size": whole(settings, "dim"),
        "intermediate_size": shape_of(state(content), UP)[0],
        "num_hidden_layers": whole(settings, "n_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": whole(settings, "n_kv_heads", heads),
        "max_position_embeddings": whole(settings, "max_seq_len"),
        "rms_norm_eps": number(settings, "norm_eps", 1e-5),
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def state(content: Mapping[str, Any]) -> dict[str, "Tensor"]:
    """Return the weights by llama2.c's names. Raises ValueError for those of another model."""
    found = without_prefix(content["model"], ())
    if not are_meta_names(found):
        raise ValueError(f"has the settings of {_MODEL}, and not its tensors: save the whole model")
    return found


def tensors(state: Mapping[str, "Tensor"], config: Mapping[str, Any]) -> dict[str, "Tensor"]:
    """Return the weights by the names of transformers' Llama."""
    return renamed_llama(state, config, _MODEL)
