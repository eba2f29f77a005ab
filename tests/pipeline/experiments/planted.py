"""Results of runs that were not made: with planted data in place of a store."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from pipeline.experiments.runs import Result, Run

Groups = Mapping[str, xr.Dataset]


class PlantedRuns:
    """Runs whose data a function of the run makes."""

    def __init__(self, groups: Callable[[Run], Groups], quick: bool = True) -> None:
        self.quick, self.text = quick, None
        self._groups, self.seen = groups, list[Run]()

    def results(self, runs: Sequence[Run]) -> list[Result]:
        """Return results with the data of the function, in the order of the runs."""
        self.seen += runs
        return [planted(run, self._groups(run)) for run in runs]


def planted(run: Run, groups: Groups) -> Result:
    """Return the result of a run with these groups as its store."""
    result = Result(run, Path("checkpoints"), "store", 0.0)
    tree = {f"/{name}": dataset for name, dataset in groups.items()}
    vars(result)["data"] = xr.DataTree.from_dict(tree)  # where `cached_property` keeps it
    return result


def of_heads(*scores: Sequence[Sequence[float]]) -> xr.DataArray:
    """Return scores [layer][head] of each step."""
    values = np.array(scores, dtype=float)
    steps, layers, heads = values.shape
    coordinates = {"step": np.arange(steps), "layer": np.arange(layers), "head": np.arange(heads)}
    return xr.DataArray(values, coordinates, ("step", "layer", "head"))
