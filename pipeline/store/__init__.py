"""The store: every measured number of one run, in rows that are committed by their markers."""

from pipeline.store.store import Commit, Row, Store, Template

__all__ = ["Commit", "Row", "Store", "Template"]
