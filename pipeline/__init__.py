"""Ontogeny: an analysis of what formed inside a language model, and when, from its checkpoints.

>>> from pipeline import analyze, load_analysis, open_run
>>> summary = analyze(load_analysis("analysis.yaml"))  # checkpoints in, a store of measures out
>>> run = open_run(summary.store)  # xarray.DataTree: a group per measure, lazy
>>> strongest = run["head_scores"].induction.max(("layer", "head"))
>>> dict(strongest.sizes)
{'step': 4}

`analyze` works serially, in this process. The command `ontogeny analyze` runs the same analysis as
a Prefect flow over Ray workers and writes the report too (`--serial`: without Ray and Prefect).
Both write the same store.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.aggregate.transitions import Transition, find_transitions
    from pipeline.analysis.run import analyze
    from pipeline.analysis.summary import Summary
    from pipeline.auditing import Audit, audit
    from pipeline.checkpoints import Checkpoint, LeftOut, Listing, list_checkpoints, list_run
    from pipeline.config import Analysis, load_analysis, load_preset
    from pipeline.engine.record import Pass
    from pipeline.errors import CheckpointError, InputError
    from pipeline.measures.base import Context, Measure, Setting
    from pipeline.query import open_run, open_runs, select
    from pipeline.report import write_report
    from pipeline.schema import Variable

    __version__: str

# Imported at their first use: reading a store needs no torch, listing checkpoints no xarray.
_HOME = {
    "Analysis": "config",
    "Audit": "auditing",
    "Context": "measures.base",
    "Checkpoint": "checkpoints",
    "CheckpointError": "errors",
    "InputError": "errors",
    "LeftOut": "checkpoints",
    "Listing": "checkpoints",
    "Measure": "measures.base",
    "Pass": "engine.record",
    "Setting": "measures.base",
    "Summary": "analysis.summary",
    "Transition": "aggregate.transitions",
    "Variable": "schema",
    "analyze": "analysis.run",
    "audit": "auditing",
    "find_transitions": "aggregate.transitions",
    "list_checkpoints": "checkpoints",
    "list_run": "checkpoints",
    "load_analysis": "config",
    "load_preset": "config",
    "open_run": "query",
    "open_runs": "query",
    "select": "query",
    "write_report": "report",
}

__all__ = [
    "Analysis",
    "Audit",
    "Checkpoint",
    "CheckpointError",
    "Context",
    "InputError",
    "LeftOut",
    "Listing",
    "Measure",
    "Pass",
    "Setting",
    "Summary",
    "Transition",
    "Variable",
    "__version__",
    "analyze",
    "audit",
    "find_transitions",
    "list_checkpoints",
    "list_run",
    "load_analysis",
    "load_preset",
    "open_run",
    "open_runs",
    "select",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    """Return the version of the installed distribution."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ontogeny")
    except PackageNotFoundError:  # imported from a folder in which nothing was installed
        return "unknown"
