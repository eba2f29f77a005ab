"""Fixed token batches and their sources: text, tables, repeated random tokens."""

from pipeline.inputs.batch import Input

__all__ = ["Input"]
