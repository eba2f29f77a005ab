"""Figures and pages from stored numbers."""

from pipeline.report.site.write import write_report

__all__ = ["write_report"]
