"""Declarations of the measures in a store, as of the time when they were computed."""

from typing import Any

import xarray as xr

from pipeline.query.run import open_run


def stored_measures(uri: str) -> list[dict[str, Any]]:
    """Return the declaration of each group of a store, in the form of `pipeline.measures.describe`.

    name: of the group. cost: None, since the measure may be unknown to this version.
    """
    return [_described(name, group.to_dataset()) for name, group in open_run(uri).children.items()]


def _described(name: str, group: xr.Dataset) -> dict[str, Any]:
    about = group.attrs
    return {
        "name": name,
        "version": about["version"],
        "default_input": (about["input"] or {}).get("name"),
        "reference_from": "last" if about["reference_values"] else None,
        "definition": about["definition"],
        "cost": None,
        "parameters": about["parameters"],
        "variables": [
            {
                "name": variable,
                "dims": list(values.dims),
                "unit": values.attrs["unit"],
                "definition": values.attrs["definition"],
                "references": values.attrs.get("references", ""),
                "dtype": str(values.dtype),
            }
            for variable, values in group.data_vars.items()
        ],
    }
