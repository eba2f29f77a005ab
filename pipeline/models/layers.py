"""The layers of a model, and which of them attend: hybrid and recurrent models have other ones."""

import inspect

from torch import nn
from transformers import PreTrainedModel

from pipeline.errors import InputError

# The name under which code of transformers knows its registry of attention functions.
_REGISTRY = "ALL_ATTENTION_FUNCTIONS"

# Families whose classes are named Attention, but compute a recurrence.
_RECURRENT = {"rwkv"}


def blocks(module: nn.Module, n_layers: int) -> nn.ModuleList:
    """Return the outermost list of as many modules as the model has layers."""
    lists = (m for m in module.modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers)
    if (found := next(lists, None)) is None:
        raise InputError(
            f"{type(module).__name__} has no list of {n_layers} blocks: its hidden states cannot "
            "be recorded"
        )
    return found


def uses_interface(module: PreTrainedModel) -> bool:
    """Return whether the model looks up its attention function by name."""
    # Private to transformers, whose public setter only warns where a model cannot do it.
    return module._can_set_attn_implementation()


def attention_modules(module: nn.Module) -> list[nn.Module]:
    """Return the innermost modules whose class is named Attention, in order.

    A family may wrap its attention (GPT-Neo's `GPTNeoAttention` holds `GPTNeoSelfAttention`);
    hooks on both would count a layer twice.
    """
    # transformers has no common base class of attention modules, only this convention.
    named = [m for m in module.modules() if "Attention" in type(m).__name__]
    return [m for m in named if not any(inner in named for inner in list(m.modules())[1:])]


def layers_without_attention(module: PreTrainedModel) -> tuple[int, ...]:
    """Return the layers, ascending, in which nothing attends: recurrent, convolutional, MLP alone.

    () where the model's attention or its list of blocks is not found, so that its forward pass is
    expected to attend in each layer; `engine/attention.py` compares what is expected with the calls
    that the model makes.
    """
    config = module.config.get_text_config()
    n_layers = config.num_hidden_layers
    attending = _attending(module)
    if config.model_type in _RECURRENT or not (attending or _has_attention(module)):
        return tuple(range(n_layers))
    try:
        of_layers = blocks(module, n_layers)
    except InputError:
        return ()
    places = set(map(id, attending))
    missing = [k for k in range(n_layers) if places.isdisjoint(map(id, of_layers[k].modules()))]
    # Where no block attends, the list found is not that of the language model's blocks.
    return tuple(missing) if len(missing) < n_layers else ()


def _attending(module: PreTrainedModel) -> list[nn.Module]:
    """Return the modules that compute attention over the tokens; [] if they are not recognised.

    Their class tells: a linear attention, which is a recurrence, may be named Attention too, but
    does not look up an attention function.
    """
    if not uses_interface(module):
        return attention_modules(module)
    codes = (
        (m, getattr(inspect.unwrap(type(m).forward), "__code__", None)) for m in module.modules()
    )
    return [part for part, code in codes if code is not None and _REGISTRY in code.co_names]


def _has_attention(module: nn.Module) -> bool:
    """Return whether some module may attend in a way that is not recognised."""
    return any("Attention" in type(part).__name__ for part in module.modules())
