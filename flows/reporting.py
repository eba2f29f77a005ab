"""Where the report of a store goes, and writing it."""

from pathlib import Path

from pipeline.report import write_report
from pipeline.store.objects import store_name


def report_folder(store: str) -> Path:
    """Beside a store on disk; in the working directory for one that is elsewhere."""
    name = f"{store_name(store)}-report"
    return Path(name) if "://" in store else Path(store).parent / name


def page_of(store: str) -> Path:
    """The page that `write_beside` writes."""
    return report_folder(store) / "index.html"


def write_beside(store: str) -> Path:
    """Write the report of one store to its own folder; returns the page to open."""
    return write_report([store], report_folder(store))
