"""Determine the axes of the tensors of one's own model from the shapes of all of them together.

A tensor may be stored in the ways of its place (`known_names.PLACES`), or in the one that the
analysis states. Those that contradict the sizes known from other tensors are excluded, until one is
left for each tensor; a tensor that two ways fit is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.checkpoints import known_names, tensor_axes
from pipeline.checkpoints.name_patterns import Entry
from pipeline.checkpoints.tensor_axes import Axes
from pipeline.errors import InputError


@dataclass
class Stored:
    """The tensors of one place: by block and head, their names and contents."""

    entry: Entry
    names: dict[tuple[int, int], str] = field(default_factory=dict)
    tensors: dict[int, Tensor] = field(default_factory=dict)

    @property
    def first(self) -> tuple[str, list[int]]:
        """The name and shape of one of the tensors."""
        block = min(self.tensors)
        name = next(name for (at, _), name in self.names.items() if at == block)
        return name, list(self.tensors[block].shape)


def solved(
    stored: Mapping[str, Stored], sizes: Mapping[str, int], matrices: str | None
) -> tuple[dict[str, Axes], dict[str, int]]:
    """Return the axes of each place's tensors, and all sizes. Raises InputError if not unique."""
    left = {place: _ways(one, matrices) for place, one in stored.items()}
    known, before = dict(sizes), None
    while before != (known, left):
        before = (dict(known), dict(left))
        for place, ways in left.items():
            name, shape = stored[place].first
            fits = {way: tensor_axes.fitted(tensor_axes.parsed(way), shape, known) for way in ways}
            left[place] = [way for way, found in fits.items() if found is not None]
            if not left[place]:
                raise _misfit(name, shape, ways, known)
            if len(left[place]) == 1:
                known = fits[left[place][0]] or known
    return {
        place: _chosen(stored[place], ways, known, matrices) for place, ways in left.items()
    }, known


def _ways(one: Stored, matrices: str | None) -> list[str]:
    """Return the axes that a tensor may have: the stated ones, or the usual ones of its place."""
    entry, has_heads = one.entry, any(head >= 0 for _, head in one.names)
    place = known_names.PLACES[str(entry.place)]
    by_head = has_heads and "n_heads" in place.axes.split()
    if entry.axes is not None:
        return [f"n_heads {entry.axes}" if by_head else entry.axes]
    ways = [axes for axes, way in place.stored if way == matrices]
    ways = ways or [axes for axes, _ in place.stored]
    return list(dict.fromkeys(axes for axes in ways if not by_head or axes.startswith("n_heads ")))


def _chosen(
    one: Stored, ways: Sequence[str], sizes: Mapping[str, int], matrices: str | None
) -> Axes:
    """Return the only axes that a place's tensors can have. Raises InputError if there are more."""
    name, shape = one.first
    place = known_names.PLACES[str(one.entry.place)]
    parsed = [tensor_axes.parsed(way) for way in ways]
    if unknown := [axis for axis in place.axes.split() if axis not in sizes]:
        size = "n_heads" if "n_heads" in unknown or "d_head" in unknown else unknown[0]
        if size == "n_heads" and "n_heads" not in sizes:
            raise InputError("the number of heads is unknown: give `model: {n_heads: ...}`")
        if len(ways) == 1:
            raise InputError(f"the tensor {name!r} has the shape {shape}: {size} is unknown")
    if len(ways) > 1 and not _are_same(one, parsed, place.axes.split(), sizes):
        raise _ambiguous(one, ways, matrices)
    for block, tensor in one.tensors.items():
        if tensor_axes.fitted(parsed[0], list(tensor.shape), sizes) is None:
            named = next(n for (at, _), n in one.names.items() if at == block)
            raise _misfit(named, list(tensor.shape), ways, sizes)
    return parsed[0]


def _are_same(
    one: Stored, ways: Sequence[Axes], order: Sequence[str], sizes: Mapping[str, int]
) -> bool:
    """Return whether a place's tensors are the same in all ways of reading them."""
    if any(axis not in sizes for axis in order):
        return False
    return all(
        torch.equal(
            tensor_axes.rearranged(tensor, ways[0], order, sizes),
            tensor_axes.rearranged(tensor, way, order, sizes),
        )
        for tensor in one.tensors.values()
        for way in ways[1:]
    )


def _ambiguous(one: Stored, ways: Sequence[str], matrices: str | None) -> InputError:
    name, shape = one.first
    kinds = dict(known_names.PLACES[str(one.entry.place)].stored)
    by_kind = {kinds[way] for way in ways} > {known_names.OUT_IN} and matrices is None
    advice = (
        "give `matrices: out_in` (as nn.Linear stores them) or `matrices: in_out` (x @ W)"
        if by_kind and len(ways) == 2
        else f"give its axes, as in {{{one.entry.name}: {{name: {one.entry.place}, "
        f"axes: {ways[0]}}}}}"
    )
    return InputError(f"the tensor {name!r} of shape {shape} can be {' or '.join(ways)}: {advice}")


def _misfit(
    name: str, shape: list[int], ways: Sequence[str], sizes: Mapping[str, int]
) -> InputError:
    said = ", ".join(f"{axis} = {size}" for axis, size in sizes.items() if axis != "qkv")
    return InputError(
        f"the tensor {name!r} has the shape {shape}, expected {' or '.join(ways)}"
        f"{' with ' + said if said else ''}: correct its place or its axes in `names`"
    )
