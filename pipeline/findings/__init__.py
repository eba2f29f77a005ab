"""What a store shows, in sentences: the one place that decides what "formed" means."""

from pipeline.findings.sentences import findings

__all__ = ["findings"]
