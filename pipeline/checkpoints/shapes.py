"""Check the names and shapes of tensors against a format and a file; infer a model's sizes."""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from pipeline.errors import InputError

_BLOCK = re.compile(r"blocks\.(\d+)\.")


def sizes_of(state: Mapping[str, Tensor], expected: Mapping[str, str]) -> dict[str, int]:
    """Return the sizes of a model by axis, and `n_layers`, from the shapes of its tensors.

    expected: the axes of each tensor, as in {"embed.W_E": "d_vocab d_model"}, with # for a block's
    number, as in "blocks.#.attn.W_O". An axis has the same size in all tensors, that of the first
    tensor in `expected`. Raises InputError, naming the tensor, for one that is not in `expected`,
    has another shape or no floating-point numbers, and for blocks that differ.
    """
    if unknown := [name for name in state if _generic(name) not in expected]:
        raise InputError(
            f"has the tensor {unknown[0]!r}{_more(unknown)}, whose role in the forward pass is "
            "unknown: this model cannot be read"
        )
    sizes: dict[str, int] = {}
    for generic, axes in expected.items():
        for name in sorted(name for name in state if _generic(name) == generic):
            _bind(sizes, name, state[name], axes.split())
    return sizes | {"n_layers": _blocks(state)}


def require(state: Mapping[str, Tensor], names: Iterable[str]) -> None:
    """Raise InputError if one of the tensors is missing; # is replaced by the first block's 0."""
    if missing := [one for name in names if (one := name.replace("#", "0")) not in state]:
        raise InputError(f"the tensor {missing[0]!r} is missing: save the whole model")


def refuse_inflated(tensors: Iterable[tuple[str, Tensor]], size: int) -> None:
    """Raise ValueError for a tensor with more bytes than the file that it was read from.

    A view may repeat a few stored numbers any number of times.
    """
    for name, tensor in tensors:
        if not tensor.is_meta and tensor.numel() * tensor.element_size() > size:
            raise ValueError(
                f"{name!r} of shape {list(tensor.shape)} is larger than the whole file"
            )


def _generic(name: str) -> str:
    return _BLOCK.sub("blocks.#.", name)


def _bind(sizes: dict[str, int], name: str, tensor: Tensor, axes: list[str]) -> None:
    if not tensor.is_floating_point() or tensor.layout is not torch.strided:
        raise InputError(
            f"the tensor {name!r} is of {tensor.dtype} ({tensor.layout}), expected dense "
            "floating-point numbers: save the weights unquantised"
        )
    known = {axis: sizes[axis] for axis in axes if axis in sizes}
    shape = list(tensor.shape)
    fits = len(shape) == len(axes) and all(
        size > 0 and sizes.setdefault(axis, size) == size
        for axis, size in zip(axes, shape, strict=True)
    )
    if not fits:
        said = ", ".join(f"{axis} = {size}" for axis, size in known.items())
        raise InputError(
            f"the tensor {name!r} has the shape {shape}, expected [{', '.join(axes)}]"
            f"{' with ' + said if said else ''}: save the model's own state dict"
        )


def _blocks(state: Mapping[str, Tensor]) -> int:
    """Return the number of blocks. Raises InputError if they do not have the same tensors."""
    names: dict[int, set[str]] = {}
    for name in state:
        if match := _BLOCK.match(name):
            names.setdefault(int(match[1]), set()).add(name[match.end() :])
    everything: set[str] = set().union(*names.values())
    for block in range(max(names, default=-1) + 1):
        if missing := sorted(everything - names.get(block, set())):
            raise InputError(
                f"the tensor 'blocks.{block}.{missing[0]}' is missing, another block has it: save "
                "the whole model"
            )
    return len(names)


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
