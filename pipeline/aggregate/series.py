"""The series of a run: every number over training steps, and every head's every score."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import xarray as xr

from pipeline.aggregate.head_layers import in_layers_with_heads, is_of_heads
from pipeline.measures.head_patterns import NULLS

# Dimensions of which every entry is a series. Others (tokens, frequencies, parameters, pairs of
# heads) have many entries that change together.
ENTRIES = ("layer", "head")


@dataclass(frozen=True)
class SeriesBlock:
    """All series of one variable, as an array whose last dimension is step.

    excess: of each over its own null, where the group stores one.
    """

    group: str
    variable: str
    values: xr.DataArray
    excess: xr.DataArray | None


def series_blocks(run: xr.DataTree) -> Iterator[SeriesBlock]:
    """Yield the series of every variable that has no other dimensions than step, layer and head.

    Nulls themselves, numbers that are no floats, and labels are left out, as are layers without
    heads of variables of heads.
    """
    for group, node in run.children.items():
        dataset = node.to_dataset()
        for name, values in dataset.data_vars.items():
            variable = str(name)
            if is_label(group) or not _is_series(values) or variable in NULLS.values():
                continue
            entries = [dim for dim in ENTRIES if dim in values.dims]
            if is_of_heads(values):
                values = in_layers_with_heads(values, dataset)
            null = dataset.get(NULLS.get(variable, ""))
            excess = None if null is None else (values - null).transpose(*entries, "step")
            yield SeriesBlock(group, variable, values.transpose(*entries, "step"), excess)


def loss_groups(run: xr.DataTree) -> dict[str, xr.Dataset]:
    """Return by name the groups that store a loss for each step, sequence and position."""
    dims = {"step", "sequence", "position"}
    found = {group: node.to_dataset() for group, node in run.children.items()}
    return {name: of for name, of in found.items() if "loss" in of and set(of["loss"].dims) == dims}


def left_out(run: xr.DataTree) -> list[str]:
    """Return the variables over steps that are not taken apart into series, as GROUP/VARIABLE."""
    return [
        f"{group}/{name}"
        for group, node in run.children.items()
        for name, values in node.data_vars.items()
        if "step" in values.dims and (is_label(group) or not _is_series(values))
    ]


def is_label(group: str) -> bool:
    """Return whether a group has labels, which are steps because a score passes a threshold."""
    return group.partition(".")[0] == "head_labels"


def _is_series(values: xr.DataArray) -> bool:
    others = set(values.dims) - {"step"}
    return "step" in values.dims and others <= set(ENTRIES) and np.dtype(values.dtype).kind == "f"
