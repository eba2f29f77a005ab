"""Refusals of a GPU in a call of torch: operands on several devices, NumPy, other generators."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

# Functions that take CPU tensors beside those of the device.
_ACROSS = {"copy_", "_to_copy", "to", "type_as", "set_data"}

# Of functions of torch, those that take no CPU operand without dimensions beside a CUDA one.
_SAME_DEVICE = {
    "cat", "concat", "concatenate", "stack", "hstack", "vstack", "gather", "index_select",
    "scatter", "scatter_", "scatter_add_", "take_along_dim", "searchsorted", "bucketize",
    "embedding", "index_add_", "index_copy_", "vecdot", "einsum", "linear",
}  # fmt: skip

# Functions in which CPU tensors are allowed as indices.
INDEXING = {"__getitem__", "__setitem__", "index", "index_put", "index_put_", "_index_put_impl_"}


def is_on_gpu(x: Any) -> bool:
    """Return whether an argument is a tensor on a GPU."""
    return isinstance(x, Tensor) and x.device.type == "cuda"


def refuse_mixed(name: str, args: tuple[Any, ...], kwargs: dict) -> None:
    """Raise what torch raises for operands that a GPU does not take together."""
    if name in ("numpy", "__array__"):
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the "
            "tensor to host memory first."
        )
    if name in _ACROSS:
        return
    leaves = tree_flatten((args, kwargs))[0]
    if any(map(is_on_gpu, leaves)):
        _refuse_generators(leaves)
    if name in INDEXING:
        _refuse_mixed_indices(name, args)
        return
    tensors = [x for x in leaves if isinstance(x, Tensor)]
    if name not in _SAME_DEVICE and any(map(is_on_gpu, tensors)):
        tensors = [x for x in tensors if x.ndim or is_on_gpu(x)]
    _refuse_several(name, tensors)


def _refuse_generators(leaves: list) -> None:
    for x in leaves:
        if isinstance(x, torch.Generator) and x.device.type != "cuda":
            raise RuntimeError(
                f"Expected a 'cuda' device type for generator but found '{x.device}'"
            )


def _refuse_mixed_indices(name: str, args: tuple[Any, ...]) -> None:
    own = args[0].device
    for index in tree_flatten(args[1])[0]:
        if is_on_gpu(index) and own.type != "cuda":
            raise RuntimeError(
                "indices should be either on cpu or on the same device as the indexed tensor (cpu)"
            )
    # Without a tensor among the indices, an assignment copies, which works across devices.
    if name == "__getitem__" or len(args) < 3 or not isinstance(args[2], Tensor):
        return
    by_tensor = any(isinstance(index, Tensor) for index in tree_flatten(args[1])[0])
    scalar = args[2].ndim == 0 and (own.type == "cuda" or args[2].device.type == "cpu")
    if by_tensor and not scalar:
        _refuse_several(name, [args[0], args[2]])


def _refuse_several(name: str, tensors: list[Tensor]) -> None:
    found = sorted({str(x.device) for x in tensors})
    if len(found) > 1:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{' and '.join(found)}! (when calling {name})"
        )
