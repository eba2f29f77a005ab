"""The paths in an analysis: make them absolute, and find the files of own measures."""

import os
from collections.abc import Callable
from pathlib import Path

from pipeline.config.analysis import Analysis
from pipeline.config.inputs import ArrayInput, NaturalMatchesInput, TextInput
from pipeline.config.trackers import LogTo


def paths_from(analysis: Analysis, folder: Path) -> Analysis:
    """Return the analysis with its relative paths resolved against a folder."""

    # Only paths, since a URI is absolute. The analysis must not depend on the working directory,
    # which differs between the workers.
    def absolute(uri: str) -> str:
        return uri if "://" in uri else os.path.realpath(folder / uri)

    inputs = {
        name: spec.model_copy(update={"path": absolute(spec.path)})
        if isinstance(spec, TextInput | ArrayInput | NaturalMatchesInput) and spec.path
        else spec
        for name, spec in analysis.inputs.items()
    }
    return analysis.model_copy(
        update={
            "checkpoints": absolute(analysis.checkpoints),
            "config": absolute(analysis.config) if analysis.config else None,
            "base": absolute(analysis.base) if analysis.base else None,
            "store": absolute(analysis.store),
            "inputs": inputs,
            "measures": {_measure_from(key, absolute): of for key, of in analysis.measures.items()},
        }
        | _events_from(analysis.log_to, absolute)
    )


def measure_files(analysis: Analysis) -> list[str]:
    """Return the files of the user's own that an analysis takes measures from."""
    return [place for key in analysis.measures if (place := _file_of(key))]


def _events_from(log_to: LogTo, absolute: Callable[[str], str]) -> dict[str, LogTo]:
    """Return `log_to` with the path of TensorBoard's folder made absolute; {} without one."""
    if log_to.tensorboard is None:
        return {}
    folder = absolute(log_to.tensorboard)
    return {"log_to": log_to.model_copy(update={"tensorboard": folder})}


def _measure_from(key: str, absolute: Callable[[str], str]) -> str:
    """Return a key of `measures` with the path of a file of the user's own made absolute."""
    place = _file_of(key)
    return f"{absolute(place)}{key[len(place) :]}" if place else key


def _file_of(key: str) -> str:
    """Return the path in a key such as `my_measures.py:Skew.text`; "" for any other key."""
    place = key.rpartition(":")[0]
    return place if place.endswith(".py") else ""
