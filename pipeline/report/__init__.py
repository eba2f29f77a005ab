"""Pictures and pages, from what is stored."""

from pipeline.report.findings import findings
from pipeline.report.page import write_report

__all__ = ["findings", "write_report"]
