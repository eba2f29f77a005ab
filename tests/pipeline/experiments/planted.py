"""Results of runs that were not made: with planted data in place of a store."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from pipeline.aggregate.loss_space import loss_space
from pipeline.experiments.claims import Finding
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
        self._stores: dict[str, Result] = {}

    def results(self, runs: Sequence[Run]) -> list[Result]:
        """Return results with the data of the function, in the order of the runs."""
        self.seen += runs
        found = [planted(run, self._groups(run), self.checkpoints) for run in runs]
        self._stores |= {one.store: one for one in found}
        return found

    def loss_space(self, store: str) -> xr.Dataset:
        """Return the loss space of a run, as `aggregates.loss_space` does."""
        return loss_space({"run": self._stores[store].group("token_loss")})


def verdicts(experiment: Experiment, runs: PlantedRuns) -> list[str]:
    """Return the verdicts on an experiment's claims, in their order."""
    return [one.verdict for one in findings(experiment, runs).values()]


def findings(experiment: Experiment, runs: PlantedRuns) -> dict[str, Finding]:
    """Return the findings of an experiment by the names of their claims, in order."""
    return {one.claim.name: one for one in run_experiment(experiment, runs).findings}


def planted(run: Run, groups: Groups, checkpoints: Path = Path()) -> Result:
    """Return the result of a run with these groups as its store."""
    result = Result(run, checkpoints, run.title, 0.0)
    tree = {f"/{name}": dataset for name, dataset in groups.items()}
    vars(result)["data"] = xr.DataTree.from_dict(tree)  # where `cached_property` keeps it
    return result


def of_heads(*scores: Sequence[Sequence[float]]) -> xr.DataArray:
    """Return scores [layer][head] of each step."""
    values = np.array(scores, dtype=float)
    steps, layers, heads = values.shape
    coordinates = {"step": np.arange(steps), "layer": np.arange(layers), "head": np.arange(heads)}
    return xr.DataArray(values, coordinates, ("step", "layer", "head"))


def noise(run: Run) -> float:
    """Return a little that differs between seeds."""
    return 0.01 * np.sin(run.training.seed)


def saved(run: Run) -> np.ndarray:
    """Return the steps of the checkpoints of a run that are evenly spaced."""
    return np.arange(0, run.training.steps + 1, run.training.checkpoints.every)


def over_steps(steps: Sequence[int] | np.ndarray, **series: Sequence[float] | float) -> xr.Dataset:
    """Return series over steps, a number being that of each step."""
    values = {name: np.broadcast_to(one, len(steps)).astype(float) for name, one in series.items()}
    return xr.Dataset({name: ("step", one) for name, one in values.items()}, {"step": steps})


def ramp(
    steps: Sequence[int] | np.ndarray, start: float, end: float, low: float = 0.0, high: float = 1.0
) -> np.ndarray:
    """Return values that go from low to high in a line between two steps."""
    return np.interp(steps, [start, end], [low, high])


def scores_over(
    steps: np.ndarray, heads: Mapping[tuple[int, int], np.ndarray | float], layers: int = 2
) -> xr.DataArray:
    """Return scores of four heads in each layer, 0 except of the heads (layer, head) given."""
    values = np.zeros((len(steps), layers, 4))
    for (layer, head), series in heads.items():
        values[:, layer, head] = series
    where = {"step": steps, "layer": np.arange(layers), "head": np.arange(4)}
    return xr.DataArray(values, where, ("step", "layer", "head"))
