"""Findings of a store, in sentences: the one place that defines "formed" and "generalised"."""

from pipeline.findings.sentences import findings

__all__ = ["findings"]
