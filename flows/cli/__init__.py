"""The command line `ontogeny`, with a module for each group of commands.

Each command imports what it needs when it runs: `--help` should not wait for torch, Prefect and
Ray, which take seconds to import.
"""

from flows.cli import (
    analyze,
    clusters,
    experiments,
    init,
    losses,
    measures,
    operate,
    presets,
    query,
    runs,
    schema,
    storage,
    stores,
    transitions,
)
from flows.cli.app import app

__all__ = [
    "analyze",
    "app",
    "clusters",
    "experiments",
    "init",
    "losses",
    "measures",
    "operate",
    "presets",
    "query",
    "runs",
    "schema",
    "storage",
    "stores",
    "transitions",
]
