"""The store: every measured number of one run, in rows that exist when their marker does."""

from pipeline.store.store import Commit, Row, Store, Template

__all__ = ["Commit", "Row", "Store", "Template"]
