"""Checkpoints of MosaicML's Composer: `ep0-ba100-rank0.pt`.

    {"state": {"model": state dict, "optimizers", "timestamp", ...}, "rng": [...]}

The language model is an attribute of the ComposerModel, such as `model`. LLM Foundry's own MPT has
the names of transformers' MPT; other models of one's own do not, and are refused by their names.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.checkpoints.formats import plain

if TYPE_CHECKING:
    from torch import Tensor

config = plain.config
tensors = plain.tensors


def matches(content: Any) -> bool:
    """Return whether this is what Composer saves on one device."""
    inner = content.get("state") if isinstance(content, Mapping) else None
    return isinstance(inner, Mapping) and plain.is_state(inner.get("model"))


def state(content: Mapping[str, Any]) -> dict[str, "Tensor"]:
    """Return the weights by the ComposerModel's names."""
    return dict(content["state"]["model"])
