"""A folder of runs (as a sweep leaves it), analysed and compared as one collection."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.aggregate.phases import SOLVED, summary_of
from pipeline.config import Analysis
from pipeline.query import open_run
from pipeline.training import load_run
from pipeline.training.config import RUN_FILE, Training


def analyses_of(analysis: Analysis) -> list[Analysis]:
    """The analysis itself; of a folder of runs, the same analysis of each run in it.

    The run `a` of the folder has its store at `<store>/a.zarr`. A folder that holds checkpoints,
    or a `training.yaml`, is one run.
    """
    folder = Path(analysis.checkpoints)
    if "://" in analysis.checkpoints or not folder.is_dir() or (folder / RUN_FILE).is_file():
        return [analysis]
    runs = sorted(inside.name for inside in folder.iterdir() if (inside / RUN_FILE).is_file())
    return [
        analysis.model_copy(
            update={
                "checkpoints": str(folder / run),
                "store": f"{analysis.store.rstrip('/')}/{run}.zarr",
            }
        )
        for run in runs
    ] or [analysis]


def grokking_table(analyses: Sequence[Analysis]) -> pd.DataFrame:
    """When each run memorised and generalised, one row for each, by the settings that differ.

    Columns: `run`; the settings of training that are not the same in all runs; `memorised`,
    `circuit`, `generalised`: the first step from which on train, restricted and test loss stay
    below 0.1 nats; `test_falls`: the first from which on test loss stays below half of its maximum;
    `restricted_then`: restricted loss (nats) at that step. Empty cells: never, or undefined.
    """
    trainings = [load_run(one.checkpoints) for one in analyses]
    rows = [
        {"run": Path(one.checkpoints).name, **settings, **_grokked(one)}
        for one, settings in zip(analyses, _differing(trainings), strict=True)
    ]
    steps = ("memorised", "circuit", "generalised", "test_falls")
    types = dict.fromkeys(steps, "Int64") | {"restricted_then": "float64"}
    return pd.DataFrame(rows).astype(types)


def _grokked(analysis: Analysis) -> dict[str, Any]:
    group = open_run(analysis.store)["modular_addition"].to_dataset()
    return summary_of(group.load(), SOLVED)


def _differing(trainings: Sequence[Training]) -> list[dict[str, Any]]:
    """Of each run the settings that other runs have otherwise, by their last name."""
    flat = [_flat(training.model_dump(mode="json")) for training in trainings]
    keys = [key for key in flat[0] if len({str(one.get(key)) for one in flat}) > 1]
    kept = [key for key in keys if key not in ("name", "output")]
    return [{key.rpartition(".")[2]: one.get(key) for key in kept} for one in flat]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inside = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{key}.") if inside else {prefix + key: value}
    return flat
