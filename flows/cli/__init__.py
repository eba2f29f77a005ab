"""The command `ontogeny`: the one package that sees everything, a module for each kind of command.

Each command imports what it needs when it runs: a word of help should not wait for torch, Prefect
and Ray.
"""

from flows.cli import clusters, measures, operate, runs, storage, stores
from flows.cli.app import app

__all__ = ["app", "clusters", "measures", "operate", "runs", "storage", "stores"]
