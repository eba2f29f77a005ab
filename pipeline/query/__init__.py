"""Queries of stores: one run or several as labelled arrays, and tables."""

from pipeline.query.collection import open_runs
from pipeline.query.run import ask, open_run, parse_selection, select
from pipeline.query.tables import Asked, to_frame, write

__all__ = [
    "Asked",
    "ask",
    "open_run",
    "open_runs",
    "parse_selection",
    "select",
    "to_frame",
    "write",
]
