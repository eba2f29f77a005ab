"""What the measures in a store are, as they were declared when they were computed."""

from typing import Any

import xarray as xr

from pipeline.query.run import open_run


def stored_measures(uri: str) -> list[dict[str, Any]]:
    """Return what each group of a store holds, as `pipeline.measures.describe` says it.

    name: of the group. cost: None, since the measure may be none that is known here.
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
