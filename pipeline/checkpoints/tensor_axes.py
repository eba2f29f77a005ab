"""The axes of a tensor in a file, written as `(n_heads d_head) d_model`, and their rearrangement.

The notation is that of einops: axes are separated by spaces, and those in parentheses are joined to
one, the first of them changing slowest. 1 is an axis of size 1.
"""

import math
import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from pipeline.errors import InputError

Axes = Sequence[Sequence[str]]
Sizes = Mapping[str, int]

_GROUP = re.compile(r"\(([^()]*)\)|([^\s()]+)")
_NAME = re.compile(r"[a-z][a-z_]*")


def parsed(text: str) -> Axes:
    """Return the axes in a text, each as the names that are joined to it; [] for an axis of size 1.

    Raises InputError if the text is no list of axes, or names one twice.
    """
    groups = [one[1] if one[1] is not None else one[2] for one in _GROUP.finditer(text)]
    axes = [[name for name in group.split() if name != "1"] for group in groups]
    names = [name for group in axes for name in group]
    is_sound = not _GROUP.sub("", text).strip() and all(map(_NAME.fullmatch, names))
    if not is_sound or len(set(names)) < len(names):
        raise InputError(
            f"the axes {text!r} are not understood: expected names separated by spaces, joined "
            "ones in parentheses, as in (n_heads d_head) d_model"
        )
    return axes


def fitted(axes: Axes, shape: Sequence[int], sizes: Sizes) -> dict[str, int] | None:
    """Return the sizes of the axes that a shape determines; None if it contradicts the known ones.

    sizes: those that are known. Two unknown axes that are joined remain unknown.
    """
    if len(axes) != len(shape):
        return None
    found = dict(sizes)
    for group, size in zip(axes, shape, strict=True):
        known = math.prod(found[name] for name in group if name in found)
        unknown = [name for name in group if name not in found]
        if size < 1 or size % known or (not unknown and size != known):
            return None
        if len(unknown) == 1:
            found[unknown[0]] = size // known
    return found


def rearranged(tensor: Tensor, axes: Axes, order: Sequence[str], sizes: Sizes) -> Tensor:
    """Return a tensor with one axis for each name, in the given order.

    axes: of the tensor as it is. sizes: of all axes.
    """
    names = [name for group in axes for name in group]
    parted = tensor.reshape([sizes[name] for name in names])
    return parted.permute([names.index(name) for name in order])
