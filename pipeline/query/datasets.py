"""Datasets as arrays and JSON, as results over checkpoints are stored, and back.

Texts become arrays of fixed width, without a pickle; their dtype is remembered.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from pipeline.store.fingerprint import plain_json
from pipeline.store.packs import Pack
from pipeline.store.sealed import DamagedError


def described(dataset: xr.Dataset) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return what a dataset is, as JSON, and its arrays by name, coordinates among them.

    Raises TypeError for values that are neither numbers nor texts, and ValueError for attributes
    that JSON does not have.
    """
    names = [str(name) for name in (*dataset.coords, *dataset.data_vars)]
    variables = {name: dataset.variables[name] for name in names}
    description = {
        "coords": [str(name) for name in dataset.coords],
        "data": [str(name) for name in dataset.data_vars],
        "dims": {name: list(variable.dims) for name, variable in variables.items()},
        "objects": [name for name, variable in variables.items() if variable.dtype.kind == "O"],
        "attributes": {name: variable.attrs for name, variable in variables.items()},
        "attrs": dataset.attrs,
    }
    arrays = {name: _plain(name, variable.values) for name, variable in variables.items()}
    return plain_json(description), arrays


def dataset_of(pack: Pack) -> xr.Dataset:
    """Return the dataset of which `described` made a pack. Raises DamagedError."""
    try:
        about = pack.header["dataset"]
        variables = {
            name: _variable(about, name, pack.array(name))
            for name in (*about["coords"], *about["data"])
        }
        return xr.Dataset(
            {name: variables[name] for name in about["data"]},
            {name: variables[name] for name in about["coords"]},
            about["attrs"],
        )
    except DamagedError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DamagedError(f"is no dataset ({error})") from error


def _variable(about: Mapping[str, Any], name: str, values: np.ndarray) -> xr.Variable:
    if name in about["objects"]:
        values = values.astype(object)
    return xr.Variable(about["dims"][name], values, about["attributes"][name])


def _plain(name: str, values: np.ndarray) -> np.ndarray:
    """Return numbers as they are, and texts with a fixed width."""
    if values.dtype.kind in "biufU":
        return values
    texts = values.astype(str)
    if values.dtype.kind != "O" or not np.array_equal(texts.astype(object), values):
        raise TypeError(f"{name!r}: {values.dtype} values cannot be stored, only numbers and texts")
    return texts
