"""Checkpoints of MosaicML's Composer: `ep0-ba100-rank0.pt`.

    {"state": {"model": state dict, "optimizers", "timestamp", "integrations", ...}, "rng": [...]}

The language model is an attribute of the ComposerModel, such as `model`. A `HuggingFaceModel` puts
its config.json into the file, under "integrations". LLM Foundry's own MPT has the names of
transformers' MPT; other models of one's own do not, and are refused by their names.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.checkpoints.formats import plain
from pipeline.checkpoints.formats.settings import is_plain

if TYPE_CHECKING:
    from torch import Tensor

tensors = plain.tensors

_CONFIG = ("integrations", "huggingface", "model", "config", "content")


def matches(content: Any) -> bool:
    """Return whether this is what Composer saves on one device."""
    inner = content.get("state") if isinstance(content, Mapping) else None
    return isinstance(inner, Mapping) and plain.is_state(inner.get("model"))


def config(content: Mapping[str, Any], beside: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the config.json in the file. Raises ValueError if there is none."""
    found: Any = content["state"]
    for key in _CONFIG:
        found = found.get(key) if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping) or not is_plain(found):
        return plain.config(content["state"], beside)  # which raises
    return dict(found)


def state(content: Mapping[str, Any]) -> dict[str, "Tensor"]:
    """Return the weights by the ComposerModel's names."""
    return dict(content["state"]["model"])
