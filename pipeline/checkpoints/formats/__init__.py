"""File formats other than the Hugging Face one, each in a module that implements `base.Format`."""

from collections.abc import Collection
from importlib import import_module
from typing import Any

from pipeline.checkpoints.files import is_hugging_face
from pipeline.checkpoints.formats.base import Format

# The modules, from the most specific names of files: the first that recognises a folder reads it.
_MODULES: tuple[str, ...] = (
    "adapter", "dcp", "fsdp_full", "neox", "deepspeed", "meta", "single_file",
)  # fmt: skip


def format_of(names: Collection[str]) -> Format | None:
    """Return the format of a checkpoint with files of these names; None if it is none of these."""
    return next((one for one in map(_imported, _MODULES) if one.weights(names)), None)


def holds_weights(names: Collection[str]) -> bool:
    """Return whether a folder with files of these names holds weights in any format."""
    return is_hugging_face(names) or format_of(names) is not None


def _imported(name: str) -> Format:
    module: Any = import_module(f"{__name__}.{name}")
    return module
