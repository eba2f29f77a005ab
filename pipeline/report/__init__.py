"""Pictures and pages, from what is stored."""

from pipeline.report.page import write_report

__all__ = ["write_report"]
