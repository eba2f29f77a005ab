"""Fixed token batches, and what they are made from: text, tables, repeated random tokens."""

from pipeline.inputs.batch import Input

__all__ = ["Input"]
