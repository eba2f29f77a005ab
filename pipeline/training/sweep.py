"""Training runs from one file, one for each combination of the values listed in its `sweep`."""

import os
from collections.abc import Iterator, Mapping
from copy import deepcopy
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from pipeline.config import read_yaml, validated
from pipeline.errors import InputError
from pipeline.training.config import Training, load_training

SWEEP = "sweep"
MOST_RUNS = 10_000


def load_trainings(source: str | Path) -> list[Training]:
    """Return the runs that a YAML file describes: one, or one for each combination of `sweep`.

        sweep: {task.train_share: [0.3, 0.4], optimizer.weight_decay: [0.5, 1.0], seed: [0, 1]}

    Keys are those of the file, joined by dots. The output of each run is a folder within `output`
    that is named after its values. Raises InputError for a `sweep` that is no mapping of lists.
    """
    path = Path(source)
    content = read_yaml(path) if path.is_file() else {}
    if SWEEP not in content:
        return [load_training(source)]
    grid = _grid(path, content.pop(SWEEP))
    return [_run(path, content, combination) for combination in _combinations(grid)]


def _grid(path: Path, grid: Any) -> dict[str, list[Any]]:
    lists = isinstance(grid, dict) and all(isinstance(v, list) and v for v in grid.values())
    if not grid or not lists:
        raise InputError(
            f"{path}: `{SWEEP}` must give a list of values for each of its keys, such as "
            "`seed: [0, 1, 2]`"
        )
    if (runs := prod(map(len, grid.values()))) > MOST_RUNS:
        raise InputError(
            f"{path}: `{SWEEP}` describes {runs:,} runs, expected at most {MOST_RUNS:,}: "
            "list fewer values"
        )
    return grid


def _combinations(grid: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for values in product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _run(path: Path, content: dict[str, Any], combination: Mapping[str, Any]) -> Training:
    one = deepcopy(content)  # nested mappings are shared by all combinations
    for key, value in combination.items():
        *parents, leaf = key.split(".")
        place = one
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise InputError(f"{path}: {SWEEP}.{key}: {parent!r} is not a mapping")
        place[leaf] = value
    training = validated(Training, one, where=f"{path}, {SWEEP} {dict(combination)}")
    label = "_".join(f"{key.rpartition('.')[2]}-{value}" for key, value in combination.items())
    output = Path(os.path.realpath(path.parent / training.output / label))
    return training.model_copy(update={"name": f"{training.name}/{label}", "output": str(output)})
