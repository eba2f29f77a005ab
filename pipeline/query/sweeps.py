"""A folder of runs, such as a sweep's, analysed and compared as one collection."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from pipeline.aggregate.phases import summary_of
from pipeline.checkpoints.files import RUN_FILE
from pipeline.errors import InputError
from pipeline.query.run import open_run
from pipeline.store.store_names import store_names
from pipeline.training import load_run
from pipeline.training.config import flattened


def stores_in(place: str) -> list[str]:
    """Return the stores `*.zarr` in a folder; for any other URI, the URI itself."""
    folder = Path(place)
    inside = sorted(folder.glob("*.zarr")) if "://" not in place and folder.is_dir() else []
    return [str(store) for store in inside] or [place]


def grokking_table(stores: Sequence[str]) -> pd.DataFrame:
    """Return when each run memorised and generalised, one row for each, by settings that differ.

    Columns: `run`; the settings of training that are not the same in all runs, where these have a
    `training.yaml`; `memorised`, `circuit`, `generalised`: the first step from which on train,
    restricted and test loss stay below 0.1 nats; `lead`: (generalised - circuit) / generalised;
    `test_falls`: the first step from which on test loss stays below half of its maximum;
    `restricted_then`: restricted loss (nats) at that step. Empty cells: never, undefined, or not
    finite at the last step. Raises InputError for a store without the measure `modular_addition`.
    """
    opened = {name: open_run(store) for name, store in store_names(stores).items()}
    trainings = [_training_of(run) for run in opened.values()]
    rows = [
        {"run": name, **settings, **_grokked(name, run)}
        for (name, run), settings in zip(opened.items(), _differing(trainings), strict=True)
    ]
    steps = ("memorised", "circuit", "generalised", "test_falls")
    shares = ("lead", "restricted_then")
    # "Int64" has missing values; int would become float, and steps print with ".0".
    return pd.DataFrame(rows).astype(dict.fromkeys(steps, "Int64") | dict.fromkeys(shares, float))


def settings_that_differ(runs: Sequence[xr.DataTree]) -> list[dict[str, Any]] | None:
    """Return for each run the settings of training that are not the same in all of them.

    None where the training of a run is not known: it has no `training.yaml`.
    """
    trainings = [_training_of(run) for run in runs]
    return _differing(trainings) if all(trainings) else None


def _grokked(name: str, run: xr.DataTree) -> dict[str, Any]:
    if "modular_addition" not in run.children:
        raise InputError(
            f"{name}: holds no rows of the measure 'modular_addition', expected an analysis of "
            "modular arithmetic: add it to `measures` and analyse the run"
        )
    return summary_of(run["modular_addition"].to_dataset().load())


def _training_of(run: xr.DataTree) -> dict[str, Any]:
    """Return the flattened settings of the training of a store's run; {} if unknown."""
    folder = Path(run.attrs["identity"].get("checkpoints", ""))
    if not (folder / RUN_FILE).is_file():
        return {}
    return flattened(load_run(folder).model_dump(mode="json"))


def _differing(trainings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return for each run the settings that differ between runs, by the last part of their key."""
    keys = [key for key in trainings[0] if len({str(one.get(key)) for one in trainings}) > 1]
    kept = [key for key in keys if key not in ("name", "output")]  # which always differ
    return [{key.rpartition(".")[2]: one.get(key) for key in kept} for one in trainings]
