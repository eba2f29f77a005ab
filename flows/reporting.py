"""Write the report of a store to its default folder."""

from pathlib import Path

from pipeline.report import write_report
from pipeline.store.objects import store_name


def report_folder(store: str) -> Path:
    """Return the folder beside a local store, or in the working directory for a remote one."""
    name = f"{store_name(store)}-report"
    return Path(name) if "://" in store else Path(store).parent / name


def report_page(store: str) -> Path:
    """Return the page that `write_store_report` writes."""
    return report_folder(store) / "index.html"


def write_store_report(store: str) -> Path:
    """Write the report of a store to its default folder; return the page to open."""
    return write_report([store], report_folder(store))
