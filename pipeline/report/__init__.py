"""Figures and pages from stored numbers."""

from pipeline.report.site.write import write_site as write_report

__all__ = ["write_report"]
