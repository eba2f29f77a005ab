"""The store: every measured number of one run, in rows that no writer ever changes."""

from pipeline.store.commits import Commit
from pipeline.store.packs import Row
from pipeline.store.store import OldLayoutError, Store
from pipeline.store.templates import Template

__all__ = ["Commit", "OldLayoutError", "Row", "Store", "Template"]
