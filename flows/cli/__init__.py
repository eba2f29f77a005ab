"""The command line `ontogeny`, with a module for each group of commands.

Each command imports what it needs when it runs: `--help` should not wait for torch, Prefect and
Ray, which take seconds to import.
"""

from flows.cli import answers, clusters, measures, operate, runs, storage, stores
from flows.cli.app import app

__all__ = ["answers", "app", "clusters", "measures", "operate", "runs", "storage", "stores"]
