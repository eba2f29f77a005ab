"""The store: every measured number of one run, in rows that no writer ever changes."""

from pipeline.store.store import Commit, OldLayoutError, Row, Store, Template

__all__ = ["Commit", "OldLayoutError", "Row", "Store", "Template"]
