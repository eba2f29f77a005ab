"""Telling numbers that are undefined from numbers that a model's overflow or NaN made non-finite.

NaN in a measure's result means one of two things. Either it is undefined by definition (0 / 0, a
query without the requested key, a quantity that this model does not have), or the model's own
numbers overflowed or were NaN. To distinguish them, the measure is computed again from the same
numbers with those that are out of bounds replaced by ordinary ones: a result that is still NaN is
undefined by definition. This happens only where a result is NaN and an input is out of bounds.
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
from pipeline.engine.record import AttentionRequest, Corner, LagMeans, Record
from pipeline.models.weights import ModelWeights
from pipeline.schema import Value, Values

# Products of a few numbers beyond this overflow float32: it is compared with inputs, not results.
# The weights and activations of models that train normally are far below it.
BOUND = 2.0**20

Compute = Callable[[tuple[Record, ...], ModelWeights], Values]
Masks = Mapping[str, Value]


def caused_by_the_model(
    values: Values, records: tuple[Record, ...], weights: ModelWeights, compute: Compute
) -> Masks:
    """Return, by variable, a mask of the values that are infinite, or NaN because of the model.

    values: the result of `compute(records, weights)`. Variables without such values are left out.
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
    """Return whether the records of the model's forward passes, and its weights, are finite.

    Entries of a record that are undefined by definition do not count.
    """
    return not _any(lambda tensor: ~tensor.isfinite(), records, weights)


def _any(
    wrong: Callable[[Tensor], Tensor], records: Sequence[Record], weights: ModelWeights
) -> bool:
    silent = weights.facts.without_attention
    parts = (part for record in records for part in _parts(record, silent))
    return any((wrong(tensor) & ~undefined).any() for tensor, undefined in parts) or any(
        wrong(tensor).any() for tensor in _read(weights).values()
    )


def _read(weights: ModelWeights) -> dict[str, Tensor]:
    """Return the weights without those that were not read, which have no data."""
    return {name: tensor for name, tensor in weights.items() if not tensor.is_meta}


def _undefined_anyway(
    records: tuple[Record, ...], weights: ModelWeights, compute: Compute
) -> Masks:
    """Return, by variable, a mask of what is NaN for ordinary numbers too; {} if unknown."""
    random = torch.Generator().manual_seed(0)
    # A shallow copy keeps the class, and with it the config that measures read beside the weights.
    bounded = copy.copy(weights)
    bounded.update({name: _bounded(one, random) for name, one in _read(weights).items()})
    try:
        silent = weights.facts.without_attention
        values = compute(
            tuple(_bounded_record(record, random, silent) for record in records), bounded
        )
    # Random numbers in place of some weights may be no valid model (a matrix without an inverse).
    except (ArithmeticError, ValueError, RuntimeError):
        return {}
    return {name: np.isnan(value) for name, value in values.items() if _is_float(value)}


def _bounded_record(record: Record, random: torch.Generator, silent: Sequence[int]) -> Record:
    parts = iter(_parts(record, silent))
    found: dict[str, Any] = {}

    def next_one() -> Tensor:
        tensor, undefined = next(parts)
        # What is undefined by definition stays NaN, as in the record of a finite model.
        return torch.where(undefined, tensor, _bounded(tensor, random))

    if record.loss is not None:
        found["loss"] = next_one()
    if record.neurons is not None:
        found["neurons"] = next_one()
    for name in ("attention", "logits", "head_outputs", "hidden_states"):
        found[name] = {key: next_one() for key in getattr(record, name)}
    return replace(record, **found)


def _parts(
    record: Record, silent: Sequence[int]
) -> list[tuple[Float[Tensor, "..."], Bool[Tensor, "..."]]]:
    """Return all tensors of a record, each with a mask of what is undefined by definition.

    silent: the layers without attention. `_bounded_record` relies on the order.
    """
    seen, nowhere = _seen(record), torch.tensor(False)
    parts = []
    if record.loss is not None:
        # A loss needs two tokens: the last one seen and the predicted one.
        parts.append((record.loss, ~(seen[:, :-1] & seen[:, 1:])))
    if record.neurons is not None:
        parts.append((record.neurons, nowhere))
    for request, tensor in record.attention.items():
        undefined = _undefined(request, record, seen)[:, None]
        if silent:
            of_layers = torch.tensor([k in silent for k in range(len(tensor))])
            undefined = undefined | of_layers[:, None, None, None]
        parts.append((tensor, undefined))
    parts += [(tensor, nowhere) for tensor in record.logits.values()]
    for layer, tensor in record.head_outputs.items():
        parts.append((tensor, ~seen[..., None, None] | (layer in silent)))
    parts += [(tensor, ~seen[..., None]) for tensor in record.hidden_states.values()]
    return parts


def _seen(record: Record) -> Bool[Tensor, "sequence position"]:
    """Return a mask [sequence, position] of the tokens that are not padding."""
    tokens = record.input.tokens
    mask = record.input.arrays.get("attention_mask", np.ones_like(tokens))
    return torch.from_numpy(np.asarray(mask).astype(bool))


def _undefined(
    request: AttentionRequest, record: Record, seen: Bool[Tensor, "sequence position"]
) -> Bool[Tensor, "_ _"]:
    """Return a mask of what is NaN by definition, over the sequences and the last axis."""
    if isinstance(request, LagMeans):
        return torch.arange(request.n_lags) >= seen.sum(dim=1, keepdim=True)
    if isinstance(request, Corner):
        queries = ~seen[: request.sequences, : request.length]
        return queries.repeat_interleave(request.length, dim=1)
    undefined = ~seen
    pairs = resolve(request, record.input.tokens)
    if isinstance(pairs, Pairs):
        undefined = undefined | (torch.arange(seen.shape[1]) < pairs.first)
        if pairs.undefined is not None:
            undefined = undefined | pairs.undefined
    return undefined


def _out_of_bounds(tensor: Float[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
    return ~(tensor.abs() <= BOUND)  # not `> BOUND`, which is False for NaN


def _bounded(tensor: Float[Tensor, "*shape"], random: torch.Generator) -> Float[Tensor, "*shape"]:
    """Return the tensor with random numbers between 0 and 1 where it is out of bounds."""
    if not (wild := _out_of_bounds(tensor)).any():
        return tensor
    # Random rather than constant: equal numbers would make differences and variances 0, and so
    # results undefined that are not.
    ordinary = torch.rand(tensor.shape, generator=random, dtype=torch.float32)
    return torch.where(wild, ordinary.to(tensor), tensor)


def _is_float(value: Value) -> bool:
    return np.asarray(value).dtype.kind == "f"
