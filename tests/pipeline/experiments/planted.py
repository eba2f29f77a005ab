"""Results of runs that were not made: with planted data in place of a store."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from pipeline.experiments.experiment import Experiment, run_experiment
from pipeline.experiments.runs import Result, Run

Groups = Mapping[str, xr.Dataset]


class PlantedRuns:
    """Runs whose data a function of the run makes. checkpoints: the folder of each of them."""

    def __init__(
        self, groups: Callable[[Run], Groups], quick: bool = True, checkpoints: Path = Path()
    ) -> None:
        self.quick, self.text, self.checkpoints = quick, None, checkpoints
        self._groups, self.seen = groups, list[Run]()

    def results(self, runs: Sequence[Run]) -> list[Result]:
        """Return results with the data of the function, in the order of the runs."""
        self.seen += runs
        return [planted(run, self._groups(run), self.checkpoints) for run in runs]


def verdicts(experiment: Experiment, runs: PlantedRuns) -> list[str]:
    """Return the verdicts on an experiment's claims, in their order."""
    return [one.verdict for one in run_experiment(experiment, runs).findings]


def planted(run: Run, groups: Groups, checkpoints: Path = Path()) -> Result:
    """Return the result of a run with these groups as its store."""
    result = Result(run, checkpoints, "store", 0.0)
    tree = {f"/{name}": dataset for name, dataset in groups.items()}
    vars(result)["data"] = xr.DataTree.from_dict(tree)  # where `cached_property` keeps it
    return result


def of_heads(*scores: Sequence[Sequence[float]]) -> xr.DataArray:
    """Return scores [layer][head] of each step."""
    values = np.array(scores, dtype=float)
    steps, layers, heads = values.shape
    coordinates = {"step": np.arange(steps), "layer": np.arange(layers), "head": np.arange(heads)}
    return xr.DataArray(values, coordinates, ("step", "layer", "head"))
