"""Figures and pages from stored numbers."""

from pipeline.report.page import write_report

__all__ = ["write_report"]
