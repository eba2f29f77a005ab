"""A small model of the form of a large one, on which that form can be checked by computing.

The code and the config are the large model's own, with fewer layers (at least one of each kind),
neurons, experts and token ids. Widths, heads and everything else are kept: some models have
projections, for example, only where two widths differ.
"""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from pipeline.models.architecture import read_architecture
from pipeline.models.layers import blocks
from pipeline.models.resident import Resident

LAYERS, NEURONS, EXPERTS, IDS = 2, 64, 4, 64

# Names of these settings in configs; those that a config lacks are skipped.
_NEURONS = ("intermediate_size", "ffn_dim", "n_inner", "moe_intermediate_size",
            "shared_expert_intermediate_size", "ffn_hidden_size")  # fmt: skip
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
_CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts")


def reduced(architecture: Any, trust_remote_code: bool = False) -> Resident:
    """Return a small float32 model on the CPU, its weights undefined.

    Where a model with fewer layers, neurons and experts cannot be built, or has layers of other
    kinds, only layers and token ids are reduced; where that fails too, it is the whole model.
    """
    config = (
        architecture
        if isinstance(architecture, PreTrainedConfig)
        else read_architecture(architecture, trust_remote_code)
    )
    kinds = _kinds(config, trust_remote_code)
    wanted = set(kinds)
    first = next(n for n in range(len(kinds) + 1) if set(kinds[:n]) == wanted)
    n_layers = min(max(first, LAYERS), len(kinds))
    for smaller in (_fewer_layers(_narrower(config), n_layers), _fewer_layers(config, n_layers)):
        try:
            if set(_kinds(smaller, trust_remote_code)) == wanted:
                return Resident(smaller, trust_remote_code=trust_remote_code)
        except Exception:  # the family's own code may raise anything for sizes it does not expect
            continue
    return Resident(config, trust_remote_code=trust_remote_code)


def _kinds(config: PreTrainedConfig, trusted: bool) -> list[tuple]:
    """Return a description of each layer's modules and settings, without its sizes.

    On the meta device, where the modules of the largest model take no memory.
    """
    module = Resident(config, "meta", trust_remote_code=trusted).module
    text = config.get_text_config()
    lists = _per_layer(text)
    return [
        (tuple(repr(of[i]) for of in lists.values()), tuple(_described(block)))
        for i, block in enumerate(blocks(module, text.num_hidden_layers))
    ]


def _described(block: nn.Module) -> Iterator[tuple]:
    for name, part in block.named_modules():
        settings = {
            key: value
            for key, value in vars(part).items()
            if isinstance(value, (str, bool)) and key != "training"
        }
        yield name, type(part).__name__, tuple(sorted(settings.items()))


def _per_layer(text: PreTrainedConfig) -> dict[str, list]:
    n_layers = text.num_hidden_layers
    return {
        key: list(value)
        for key, value in vars(text).items()
        if isinstance(value, (list, tuple)) and len(value) == n_layers
    }


def _fewer_layers(config: PreTrainedConfig, n_layers: int) -> PreTrainedConfig:
    config = deepcopy(config)
    text = config.get_text_config()
    for key, value in _per_layer(text).items():
        setattr(text, key, value[:n_layers])
    text.num_hidden_layers = n_layers
    text.vocab_size = min(text.vocab_size, IDS)
    for key in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if isinstance(of := getattr(text, key, None), int) and of >= text.vocab_size:
            setattr(text, key, None)
    return config


def _narrower(config: PreTrainedConfig) -> PreTrainedConfig:
    config = deepcopy(config)
    text = config.get_text_config()
    chosen = max((getattr(text, key, None) or 0 for key in _CHOSEN), default=0)
    for names, size in ((_NEURONS, NEURONS), (_EXPERTS, max(EXPERTS, chosen))):
        for name in names:
            if isinstance(of := getattr(text, name, None), int) and of > size:
                setattr(text, name, size)
    return config
