"""Which numbers of a measure are not finite because the model's are not.

NaN in a measure's result means one of two things. It is undefined by its definition (0 / 0, a query
without such a key, a quantity that this model has not), or the model's own numbers overflowed or
were NaN. The second kind is told from the first by computing the measure again from the same
numbers with those that are out of bounds replaced by ordinary ones: what is NaN then too is
undefined by definition. That is done only where there is NaN and something is out of bounds.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.engine.pairs import Pairs, resolve
from pipeline.engine.record import AttentionRequest, LagMeans, Record
from pipeline.models.loading import ModelWeights
from pipeline.schema import Value, Values

# Beyond this, products of a few numbers leave float32. No healthy model comes near it.
BOUND = 2.0**20

Compute = Callable[[tuple[Record, ...], ModelWeights], Values]
Masks = Mapping[str, Value]


def caused_by_the_model(
    values: Values, records: tuple[Record, ...], weights: ModelWeights, compute: Compute
) -> Masks:
    """By variable, where the values are infinite, or NaN because the model's numbers are.

    values: what `compute(records, weights)` gave. Variables without such numbers are left out.
    """
    wrong = {name: ~np.isfinite(value) for name, value in values.items() if _is_float(value)}
    wrong = {name: mask for name, mask in wrong.items() if mask.any()}
    if not any(np.isnan(values[name]).any() for name in wrong):
        return wrong
    if not _any(_out_of_bounds, records, weights):
        by_definition = {name: np.isnan(values[name]) for name in wrong}
    else:
        by_definition = _undefined_anyway(records, weights, compute)
    caused = {
        name: mask & ~(by_definition.get(name, False) & np.isnan(values[name]))
        for name, mask in wrong.items()
    }
    return {name: mask for name, mask in caused.items() if mask.any()}


def is_finite(records: Sequence[Record], weights: ModelWeights) -> bool:
    """Whether all that the model's forward passes yielded, and its weights, are finite.

    What a record leaves undefined by its definition does not count.
    """
    return not _any(lambda tensor: ~tensor.isfinite(), records, weights)


def _any(
    wrong: Callable[[Tensor], Tensor], records: Sequence[Record], weights: ModelWeights
) -> bool:
    parts = (part for record in records for part in _parts(record))
    return any((wrong(tensor) & ~undefined).any() for tensor, undefined in parts) or any(
        wrong(tensor).any() for tensor in weights.values()
    )


def _undefined_anyway(
    records: tuple[Record, ...], weights: ModelWeights, compute: Compute
) -> Masks:
    """Where the values are NaN too when all numbers are ordinary ones; {} if that is unknown."""
    random = torch.Generator().manual_seed(0)
    tame = copy.copy(weights)
    tame.update({name: _tame(tensor, random) for name, tensor in weights.items()})
    try:
        values = compute(tuple(_tame_record(record, random) for record in records), tame)
    except (ArithmeticError, ValueError, RuntimeError):
        return {}
    return {name: np.isnan(value) for name, value in values.items() if _is_float(value)}


def _tame_record(record: Record, random: torch.Generator) -> Record:
    parts = iter(_parts(record))
    found: dict[str, Any] = {}

    def next_one() -> Tensor:
        tensor, undefined = next(parts)
        return torch.where(undefined, tensor, _tame(tensor, random))

    if record.loss is not None:
        found["loss"] = next_one()
    if record.neurons is not None:
        found["neurons"] = next_one()
    for name in ("attention", "logits", "head_outputs", "hidden_states"):
        found[name] = {key: next_one() for key in getattr(record, name)}
    return replace(record, **found)


def _parts(record: Record) -> list[tuple[Float[Tensor, "..."], Bool[Tensor, "..."]]]:
    """All tensors of a record, each with where it is undefined by definition."""
    seen, nowhere = _seen(record), torch.tensor(False)
    parts = []
    if record.loss is not None:
        parts.append((record.loss, ~(seen[:, :-1] & seen[:, 1:])))
    if record.neurons is not None:
        parts.append((record.neurons, nowhere))
    for request, tensor in record.attention.items():
        parts.append((tensor, _undefined(request, record, seen)[:, None]))
    parts += [(tensor, nowhere) for tensor in record.logits.values()]
    parts += [(tensor, ~seen[..., None, None]) for tensor in record.head_outputs.values()]
    parts += [(tensor, ~seen[..., None]) for tensor in record.hidden_states.values()]
    return parts


def _seen(record: Record) -> Bool[Tensor, "sequence position"]:
    """Which tokens [sequence, position] are none of padding."""
    tokens = record.input.tokens
    mask = record.input.arrays.get("attention_mask", np.ones_like(tokens))
    return torch.from_numpy(np.asarray(mask).astype(bool))


def _undefined(
    request: AttentionRequest, record: Record, seen: Bool[Tensor, "sequence position"]
) -> Bool[Tensor, "sequence _"]:
    """Where the record of a request is NaN by definition: [sequence, query], or [sequence, lag]."""
    if isinstance(request, LagMeans):
        return torch.arange(request.n_lags) >= seen.sum(dim=1, keepdim=True)
    undefined = ~seen
    pairs = resolve(request, record.input.tokens)
    if isinstance(pairs, Pairs):
        undefined = undefined | (torch.arange(seen.shape[1]) < pairs.first)
        if pairs.undefined is not None:
            undefined = undefined | pairs.undefined
    return undefined


def _out_of_bounds(tensor: Float[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
    return ~(tensor.abs() <= BOUND)  # of NaN, too


def _tame(tensor: Float[Tensor, "*shape"], random: torch.Generator) -> Float[Tensor, "*shape"]:
    """The tensor with ordinary numbers between 0 and 1 where it is out of bounds."""
    if not (wild := _out_of_bounds(tensor)).any():
        return tensor
    ordinary = torch.rand(tensor.shape, generator=random, dtype=torch.float32)
    return torch.where(wild, ordinary.to(tensor), tensor)


def _is_float(value: Value) -> bool:
    return np.asarray(value).dtype.kind == "f"
