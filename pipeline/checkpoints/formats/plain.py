"""A state dict of transformers under another name, alone or with others' things beside it.

    {"state_dict" | "model_state_dict" | "model": state dict, "optimizer": ..., ...}
    state dict

The config.json must lie beside it, at the run's root, or be given. In Lightning's and Composer's
files the model is an attribute of another one, whose name stands before those of all tensors.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.checkpoints.formats.renaming import without_prefix
from pipeline.checkpoints.name_patterns import table_of
from pipeline.checkpoints.pth_names import found_in

if TYPE_CHECKING:
    from torch import Tensor

# Names under which training code saves the weights beside its other states.
STATE_DICTS = ("model", "model_state_dict", "state_dict")


def matches(content: Any) -> bool:
    """Return whether there is a state dict in the content, under one name."""
    if not isinstance(content, Mapping):
        return False
    return sum(is_state(content.get(key)) for key in STATE_DICTS) == 1 or is_state(content)


def config(content: Mapping[str, Any], beside: Mapping[str, bytes]) -> dict[str, Any]:
    """Raise ValueError: nothing in such a file says which model it is of."""
    names = list(state(content))
    table = table_of([str(name) for name in names])
    known = f" ({table} has them)" if table else ""
    raise ValueError(
        f"holds a state dict of {found_in(names)}, and no config.json says which model it is of: "
        "put the model's config.json beside it or in the run's folder, give its path as `config`, "
        f"or, for a model of one's own, the names of its tensors{known}: `model: {{names: "
        f"{table or '...'}}}`"
    )


def state(content: Mapping[str, Any]) -> dict[str, "Tensor"]:
    """Return the weights by the names in the file."""
    found = (content[key] for key in STATE_DICTS if is_state(content.get(key)))
    return dict(next(found, content))


def tensors(state: Mapping[str, "Tensor"], config: Mapping[str, Any]) -> dict[str, "Tensor"]:
    """Return the weights by the names that they have in the language model."""
    return inner_names(state)


def inner_names(state: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """Return tensors by their names without the parts that all names begin with."""
    found = without_prefix(state, ())
    while found and len(first := {name.split(".")[0] for name in found}) == 1:
        shorter = without_prefix(found, [f"{first.pop()}."])
        if list(shorter) == list(found):
            break
        found = shorter
    return found


def is_state(value: Any) -> bool:
    """Return whether a value is a state dict: tensors by name, at least one."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) and hasattr(one, "untyped_storage")
                for name, one in value.items())
    )  # fmt: skip
