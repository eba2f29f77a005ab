"""The measures: every `Measure` defined in a file of this folder, and those of the user's own."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.measures.known import COSTS, describe, known_measures, measure_class, registry

__all__ = ["COSTS", "describe", "known_measures", "measure_class", "registry"]


def __getattr__(name: str) -> Any:
    # Imported at the first use: names and declarations need no torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.known"), name)
