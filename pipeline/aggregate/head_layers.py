"""The layers that have attention heads: in the others, numbers of heads are NaN.

Those of a hybrid model that have none are left out of what is counted or drawn, where they would
look like heads that never form.
"""

from typing import TypeVar

import xarray as xr

# The attribute of a group with numbers of heads that lists the layers without them.
ATTRIBUTE = "layers_without_heads"
# The attribute of every group of a model in which no layer has heads. It is 0.
COUNT = "attention_heads"

_LAYERS = {"layer", "layer_from", "layer_to"}
_HEADS = {"head", "head_from", "head_to"}

Of = TypeVar("Of", xr.Dataset, xr.DataArray)


def in_layers_with_heads(values: Of, group: xr.Dataset) -> Of:
    """Return a group, or one of its variables, without the layers that have no heads."""
    if absent := group.attrs.get(ATTRIBUTE):
        for dim in sorted(_LAYERS & set(map(str, values.dims))):
            values = values.sel({dim: ~values[dim].isin(absent)})
    return values


def of_headless_model(group: xr.Dataset) -> bool:
    """Return whether a group is of a model without attention heads, as its attributes say.

    Groups that were stored without this attribute are taken to be of a model with heads.
    """
    return group.attrs.get(COUNT) == 0


def is_of_heads(values: xr.DataArray) -> bool:
    """Return whether a variable has a number for each head."""
    return not _HEADS.isdisjoint(map(str, values.dims))


def of_heads_alone(group: xr.Dataset) -> xr.Dataset:
    """Return a group without the layers that have no heads, if all its numbers are of heads.

    Where others are of layers as a whole, which all layers have, it keeps them all.
    """
    of_layers = (one for one in group.data_vars.values() if _LAYERS & set(map(str, one.dims)))
    return in_layers_with_heads(group, group) if all(map(is_of_heads, of_layers)) else group
