"""Ontogeny: what formed inside a language model, and when, read from its checkpoints.

from pipeline import Analysis, analyze, list_checkpoints, open_run

analyze(load_analysis("analysis.yaml"))      # checkpoints in, a store of measures out
run = open_run("run.zarr")                   # xarray.DataTree, a group per measure, lazy
run["head_scores"].induction.max(("layer", "head")).plot()
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.analysis.run import Summary, analyze
    from pipeline.audit import audit
    from pipeline.checkpoints import Checkpoint, Listing, list_checkpoints, list_run
    from pipeline.config import Analysis, load_analysis
    from pipeline.engine.record import Pass
    from pipeline.errors import CheckpointError, InputError
    from pipeline.measures.base import Context, Measure, Setting
    from pipeline.query import open_run
    from pipeline.schema import Variable

# Imported when they are asked for: reading a store needs no torch, listing one no xarray.
_HOME = {
    "Analysis": "config",
    "Context": "measures.base",
    "Checkpoint": "checkpoints",
    "CheckpointError": "errors",
    "InputError": "errors",
    "Listing": "checkpoints",
    "Measure": "measures.base",
    "Pass": "engine.record",
    "Setting": "measures.base",
    "Summary": "analysis.run",
    "Variable": "schema",
    "analyze": "analysis.run",
    "audit": "audit",
    "list_checkpoints": "checkpoints",
    "list_run": "checkpoints",
    "load_analysis": "config",
    "open_run": "query",
}

__all__ = [
    "Analysis",
    "Checkpoint",
    "CheckpointError",
    "Context",
    "InputError",
    "Listing",
    "Measure",
    "Pass",
    "Setting",
    "Summary",
    "Variable",
    "analyze",
    "audit",
    "list_checkpoints",
    "list_run",
    "load_analysis",
    "open_run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
