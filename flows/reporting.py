"""Write the report of a store to its default folder."""

from pathlib import Path

from pipeline.report import write_report
from pipeline.store.store_names import store_name


def report_folder(store: str, more: int = 0) -> Path:
    """Return the folder beside a local store, or in the working directory for a remote one.

    more: how many stores the report shows beside it: it is not to replace the store's own.
    """
    name = f"{store_name(store)}{f'-and-{more}-more' if more else ''}-report"
    return Path(name) if "://" in store else Path(store).parent / name


def report_page(store: str) -> Path:
    """Return the page that `write_store_report` writes."""
    return report_folder(store) / "index.html"


def write_store_report(store: str) -> Path:
    """Write the report of a store to its default folder; return the page to open."""
    return write_report([store], report_folder(store))
