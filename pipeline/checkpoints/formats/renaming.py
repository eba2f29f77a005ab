"""Give the tensors of a model the names that transformers has for them."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from pipeline.checkpoints.wrappers import without_wrappers
from pipeline.errors import CheckpointError

if TYPE_CHECKING:  # formats are recognised without torch
    from torch import Tensor

_LAYER = re.compile(r"(?<=\.)\d+(?=\.)")
_SHOWN = 3  # names that a message lists


def renamed(
    state: Mapping[str, "Tensor"], names: Mapping[str, str], model: str, ignored: str = "$^"
) -> dict[str, "Tensor"]:
    """Return tensors under other names.

    names: the new name of each, with # for the number of a layer in both, as in {"layers.#.wq":
    "layers.#.q"}. model: whose names these are, for messages. ignored: a pattern of names to leave
    out. Raises ValueError for a tensor with any other name: its role is unknown.
    """
    found = {}
    for name, tensor in state.items():
        if re.search(ignored, name):
            continue
        generic = _LAYER.sub("#", name)
        if generic not in names:
            raise ValueError(
                f"holds the tensor {name!r}, which {model} does not have: this is another model, "
                "and cannot be read as one"
            )
        number = _LAYER.search(name)
        found[names[generic].replace("#", number[0] if number else "#")] = tensor
    return found


def without_prefix(state: Mapping[str, "Tensor"], prefixes: Iterable[str]) -> dict[str, "Tensor"]:
    """Return tensors without the wrappers in their names, nor one of the prefixes all begin with.

    Only the first prefix that all names have is removed. Raises ValueError if two become equal.
    """
    try:
        plain = without_wrappers(state, "its state dict")
    except CheckpointError as error:
        raise ValueError(str(error)) from error
    named = {plain[name]: tensor for name, tensor in state.items()}
    for prefix in prefixes:
        if named and all(name.startswith(prefix) for name in named):
            return {name.removeprefix(prefix): tensor for name, tensor in named.items()}
    return named


def each(
    state: Mapping[str, "Tensor"], pattern: str, change: Callable[["Tensor"], "Tensor"]
) -> dict[str, "Tensor"]:
    """Return tensors, those whose names match the pattern changed."""
    return {
        name: change(tensor) if re.search(pattern, name) else tensor
        for name, tensor in state.items()
    }


def layers_in(state: Iterable[str]) -> int:
    """Return the number of layers, by the largest number in the names of tensors."""
    return 1 + max((int(found[0]) for name in state if (found := _LAYER.search(name))), default=-1)


def shape_of(state: Mapping[str, "Tensor"], name: str, dimensions: int = 2) -> tuple[int, ...]:
    """Return a tensor's shape. Raises ValueError if it is missing or of other dimensions."""
    if name not in state:
        first = ", ".join(list(state)[:_SHOWN])
        raise ValueError(f"its tensor {name!r} is missing, found {first}: save the whole model")
    shape = tuple(state[name].shape)
    if len(shape) != dimensions:
        raise ValueError(
            f"its tensor {name!r} has the shape {list(shape)}, expected {dimensions} dimensions"
        )
    return shape
