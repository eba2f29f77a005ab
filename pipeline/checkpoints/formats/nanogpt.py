"""Checkpoints of nanoGPT (karpathy/nanoGPT, train.py): GPT-2, its matrices stored transposed.

    {"model": state dict, "optimizer", "model_args": {n_layer, n_head, n_embd, block_size, bias,
    vocab_size, dropout}, "iter_num", "best_val_loss", "config"}

The activation is not in the file. nanoGPT had GPT-2's approximate GELU at first and has had
torch's exact one since June 2023. `bias` became one of `model_args` in January 2023: files without
it are of the first kind; all others are taken for the second, as most are.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.checkpoints.formats.renaming import each, renamed, without_prefix
from pipeline.checkpoints.formats.settings import flag, refuse_unknown, whole
from pipeline.checkpoints.inert import values_of

if TYPE_CHECKING:
    from torch import Tensor

_SIZES = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
_KNOWN = (*_SIZES, "bias", "dropout")
_MODEL = "nanoGPT's model"

_NORMS = ("transformer.h.#.ln_1", "transformer.h.#.ln_2", "transformer.ln_f")
_MATRICES = tuple(
    f"transformer.h.#.{name}" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
)
_TRANSPOSED = r"\.(c_attn|c_proj|c_fc)\.weight$"
_MASK = r"\.attn\.bias$"  # of attention without torch's own function
_NAMES = {
    name: name
    for name in (
        "transformer.wte.weight",
        "transformer.wpe.weight",
        "lm_head.weight",
        *(f"{one}.{part}" for one in (*_NORMS, *_MATRICES) for part in ("weight", "bias")),
    )
}


def matches(content: Any) -> bool:
    """Return whether this is what nanoGPT's train.py saves."""
    if not isinstance(content, Mapping) or not isinstance(content.get("model"), Mapping):
        return False
    settings = values_of(content.get("model_args"))
    return settings is not None and "n_embd" in settings and "block_size" in settings


def config(content: Mapping[str, Any], beside: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the config of a GPT-2 of the sizes in `model_args`."""
    settings = values_of(content["model_args"]) or {}
    refuse_unknown(settings, _KNOWN, _MODEL)
    sizes = {name: whole(settings, name) for name in _SIZES}
    flag(settings, "bias", True)
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": sizes["vocab_size"],
        "n_positions": sizes["block_size"],
        "n_embd": sizes["n_embd"],
        "n_layer": sizes["n_layer"],
        "n_head": sizes["n_head"],
        "activation_function": "gelu" if "bias" in settings else "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "bos_token_id": None,
        "eos_token_id": None,
        "tie_word_embeddings": True,
    }


def state(content: Mapping[str, Any]) -> dict[str, "Tensor"]:
    """Return the weights by nanoGPT's names."""
    return dict(content["model"])


def tensors(state: Mapping[str, "Tensor"], config: Mapping[str, Any]) -> dict[str, "Tensor"]:
    """Return the weights by GPT-2's names; a model without biases is one whose biases are 0."""
    plain = renamed(without_prefix(state, ()), _NAMES, _MODEL, _MASK)
    found = each(plain, _TRANSPOSED, lambda matrix: matrix.T)
    # Of a model that has biases, one that is missing was lost.
    has_biases = any(name.endswith(".bias") for name in found)
    return found if has_biases else found | dict(_zeros(found))


def _zeros(state: Mapping[str, "Tensor"]) -> "Iterator[tuple[str, Tensor]]":
    """Yield a bias of zeros for each matrix and norm."""
    ends = tuple(f"{one.rpartition('#')[2]}.weight" for one in (*_NORMS, *_MATRICES))
    for name, tensor in state.items():
        if name.endswith(ends):
            yield f"{name.removesuffix('weight')}bias", tensor.new_zeros(tensor.shape[-1])


def assumed(content: Mapping[str, Any]) -> list[str]:
    """Return the activation that is assumed."""
    if "bias" in (values_of(content["model_args"]) or {}):
        exact = "torch's exact GELU, as in nanoGPT since June 2023"
        return [f"nanoGPT's files do not name the activation: {exact}; before, it was gelu_new"]
    return ["nanoGPT's files do not name the activation: gelu_new, as without `bias` in model_args"]
