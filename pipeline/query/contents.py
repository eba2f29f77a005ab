"""The contents of stores as a table: groups, variables, dimensions, units and steps."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import xarray as xr

from pipeline.errors import InputError, suggestion

_EMPTY = "nothing is stored yet: run its analysis"


def contents(trees: Mapping[str, xr.DataTree], group: str | None = None) -> pd.DataFrame:
    """Return a row for each variable of stores, as `open_run` opens them, by the name of the run.

    The columns are group, variable, dimensions (with their lengths; the steps are not among them),
    unit, steps (their number), first_step and last_step, and run, if there are several. Nothing
    but names and metadata is read. group: only this group.
    Raises InputError where no run has that group.
    """
    known = list(dict.fromkeys(str(name) for tree in trees.values() for name in tree.children))
    if group is not None and group not in known:
        raise InputError(
            f"there is no group {group!r} in {', '.join(trees)}; {_remedy(group, trees)}"
        )
    rows = [
        {"run": run, **row}
        for run, tree in trees.items()
        for name, node in sorted(tree.children.items())
        if group in (None, name)
        for row in _rows(str(name), node.to_dataset())
    ]
    columns = [
        *("run", "group", "variable", "dimensions", "unit", "steps", "first_step", "last_step"),
    ]
    frame = pd.DataFrame(rows, columns=columns)
    return frame if len(trees) > 1 else frame.drop(columns="run")


def in_few_columns(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table of contents for a terminal: with addresses, and the steps in one column."""
    steps = [
        f"{count}, from {first} to {last}"
        for count, first, last in zip(
            table["steps"], table["first_step"], table["last_step"], strict=True
        )
    ]
    variables = table["group"] + "/" + table["variable"]
    columns = [*(["run"] if "run" in table else []), "variable", "dimensions", "unit", "steps"]
    return table.assign(variable=variables, steps=steps).loc[:, columns]


def notes(trees: Mapping[str, xr.DataTree]) -> list[str]:
    """Return a sentence for each thing that the table of contents does not show, by run."""
    return [f"{run}: {sentence}" for run, tree in trees.items() for sentence in _sentences(tree)]


def _sentences(tree: xr.DataTree) -> list[str]:
    found = [] if tree.children else [_EMPTY]
    if not_finite := tree.attrs.get("not_finite"):
        found.append(f"numbers that are not finite at {_steps(not_finite)}")
    if masked := tree.attrs.get("masked"):
        found.append(f"the audit masks {_steps(masked)}, not counted here")
    return found


def _steps(steps: Mapping[Any, Any]) -> str:
    ordered = sorted(map(int, steps))
    shown = ", ".join(map(str, ordered[:6]))
    more = f" and {len(ordered) - 6} more" if len(ordered) > 6 else ""
    return f"step{'s' if len(ordered) > 1 else ''} {shown}{more}"


def _remedy(name: str, trees: Mapping[str, xr.DataTree]) -> str:
    """Return the end of a message: the variable of that name, or the nearest group."""
    nodes = {str(g): node for tree in trees.values() for g, node in tree.children.items()}
    for group, node in nodes.items():
        if name in node.data_vars:
            return f"did you mean {f'{group}/{name}'!r}?"
    return suggestion(name, nodes) if nodes else _EMPTY


def _rows(group: str, dataset: xr.Dataset) -> list[dict[str, Any]]:
    steps = dataset["step"].values
    return [
        {
            "group": group,
            "variable": str(name),
            "dimensions": ", ".join(f"{d} {n}" for d, n in array.sizes.items() if d != "step"),
            "unit": array.attrs.get("unit", ""),
            "steps": len(steps),
            "first_step": steps[0],
            "last_step": steps[-1],
        }
        for name, array in dataset.data_vars.items()
    ]
