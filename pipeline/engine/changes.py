"""Forward passes in which heads are ablated, patched with their outputs on another input, or
restricted to what they read from some keys.

Below the first changed layer such a pass equals the pass without change, so it starts at that
layer, from the residual stream recorded there. Changes that begin in the same layer share a batch,
each on its own copy of every sequence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from pipeline.engine.batches import Limits, batch_size
from pipeline.engine.forward import Resumed, run
from pipeline.engine.head_edits import Edit, Outputs
from pipeline.engine.partial_reads import Part
from pipeline.engine.record import HeadChange, OutputOn, Pass, ReadFrom, Record
from pipeline.errors import InputError
from pipeline.inputs import Input
from pipeline.models.layers import uses_interface
from pipeline.models.resident import Resident

Records = Mapping[tuple, Record]


def run_changed(
    resident: Resident,
    inputs: Mapping[str, Input],
    passes: Sequence[Pass],
    before: Records,
    limits: Limits = Limits(),
) -> dict[tuple, Record]:
    """Return the records of passes with a change, by their keys.

    before: the records of the passes that they need (`Pass.needs`), by their keys. Raises
    InputError where attention is to be kept, or read in part, in a model whose own code computes
    it.
    """
    for one in passes:
        if not uses_interface(module := resident.module_in(one.dtype)):
            _refuse_unread(type(module).__name__, _change(one))
    found: dict[tuple, Record] = {}
    # `groupby` needs its input sorted by the same key.
    for _, alike in groupby(sorted(passes, key=_batch_key), key=_batch_key):
        group = list(alike)
        input = inputs[group[0].input]
        at_a_time = _copies_per_batch(resident, input, group, limits)
        for i in range(0, len(group), at_a_time):
            some = group[i : i + at_a_time]
            found |= _run_in_one_batch(resident, input, some, before, limits)
    return found


def _batch_key(pass_: Pass) -> tuple:
    """Return the properties that passes in one batch must share."""
    change = _change(pass_)
    # With their layers, so that outputs and streams are recorded only of passes that want them.
    recorded = (pass_.head_outputs, pass_.hidden_states)
    return (pass_.input, pass_.dtype, change.first_layer, sorted(change.kept), recorded)


def _change(pass_: Pass) -> HeadChange:
    if pass_.change is None or pass_.attention or pass_.neurons:
        raise ValueError(f"{pass_} is no pass that changes heads and records no attention")
    return pass_.change


def _copies_per_batch(
    resident: Resident,
    input: Input,
    alike: Sequence[Pass],
    limits: Limits,
) -> int:
    """Return how many changed copies of a sequence fit into a batch, which is then divided.

    If anything is kept, it takes one more copy, without change, whose queries, keys or values the
    others use.
    """
    module, more = resident.module_in(alike[0].dtype), bool(_change(alike[0]).kept)
    fit = batch_size(resident.facts, module, input.tokens.shape[1], limits.memory_bytes)
    return max(1, min(fit, len(alike) + more) // limits.divided - more)


def _refuse_unread(model: str, change: HeadChange) -> None:
    """Raise InputError for a change that needs the attention of a model with code of its own."""
    if change.kept:
        raise InputError(
            f"{model} computes attention in code of its own, where it cannot be "
            "kept as it is without a change: leave out the measures that keep it"
        )
    if isinstance(change.to, ReadFrom):
        raise InputError(
            f"{model} computes attention in code of its own, where what a head reads from some "
            "keys is not known: leave out the measures that restrict heads to some keys"
        )


def _run_in_one_batch(
    resident: Resident,
    input: Input,
    passes: Sequence[Pass],
    before: Records,
    limits: Limits,
) -> dict[tuple, Record]:
    changes = [_change(one) for one in passes]
    first, kept = changes[0].first_layer, changes[0].kept
    outputs = [
        _parts(resident, input, one, change.to, before, limits)
        if isinstance(change.to, ReadFrom)
        else _outputs(one, change, before)
        for one, change in zip(passes, changes, strict=True)
    ]
    # The unchanged copy must be the first: `Edit.with_kept` reads it.
    edit = Edit([{}, *outputs] if kept else outputs, kept)
    unchanged = before[(input.name, None, passes[0].dtype)]
    stream = unchanged.hidden_states[first] if first else None
    wanted = Pass(
        input.name,
        losses=any(one.losses for one in passes),
        logit_positions=tuple({p: None for one in passes for p in one.logit_positions}),
        head_outputs=tuple(of for of in passes[0].head_outputs if of >= first),
        hidden_states=tuple(of for of in passes[0].hidden_states if of > first),
        change=changes[0],
        dtype=passes[0].dtype,
    )
    rows = _copied(input, len(edit.copies))
    record = run(resident, rows, wanted, limits, Resumed(first, stream, edit))
    return {
        one.key: _with_layers_below(
            _of_copy(record, input, i + bool(kept), len(edit.copies)), passes[0], unchanged
        )
        for i, one in enumerate(passes)
    }


def _outputs(pass_: Pass, change: HeadChange, before: Records) -> dict[tuple[int, int], Outputs]:
    """Return the output that replaces that of each changed head."""
    name = change.to.input if isinstance(change.to, OutputOn) else pass_.input
    source = before[(name, None, pass_.dtype)]
    if change.to == "zero":
        return {where: torch.zeros(()) for where in change.heads}  # broadcasts over d_value
    of_heads = {(at, head): source.head_outputs[at][:, :, head] for at, head in change.heads}
    if isinstance(change.to, OutputOn):
        return of_heads
    tokens = torch.from_numpy(_mask(source.input))
    # In float64, so that the rounding of a sum over all tokens of the input does not count.
    return {where: z[tokens].double().mean(dim=0) for where, z in of_heads.items()}


def _parts(
    resident: Resident,
    input: Input,
    pass_: Pass,
    to: ReadFrom,
    before: Records,
    limits: Limits,
) -> dict[tuple[int, int], Part]:
    """Return the part of its own output that each changed head keeps.

    The mean of the rest is that of the head's output without the change, less that of the part: a
    pass from the stream that enters the head's layer yields it, with the other heads as they are.
    """
    change, nothing = _change(pass_), torch.zeros(())
    parts = {where: Part(to.rule, nothing) for where in change.heads}
    if to.rest == "zero":
        return parts
    source, tokens = before[(input.name, None, pass_.dtype)], torch.from_numpy(_mask(input))
    for layer in change.layers:
        own = {where: part for where, part in parts.items() if where[0] == layer}
        stream = source.hidden_states[layer] if layer else None
        wanted = Pass(input.name, head_outputs=(layer,), dtype=pass_.dtype)
        resumed = Resumed(layer, stream, Edit([own]))
        kept = run(resident, input, wanted, limits, resumed).head_outputs[layer]
        rest = (source.head_outputs[layer].double() - kept.double())[tokens].mean(dim=0)
        parts |= {where: Part(to.rule, rest[where[1]]) for where in own}
    return parts


def _mask(input: Input) -> Bool[np.ndarray, "sequence position"]:
    mask = input.arrays.get("attention_mask", np.ones_like(input.tokens))
    return mask.astype(bool)


def _copied(input: Input, copies: int) -> Input:
    """Return the input with every sequence repeated, its copies in consecutive rows."""
    arrays = {"attention_mask": np.repeat(_mask(input), copies, axis=0).astype(np.int64)}
    return Input(input.name, input.kind, np.repeat(input.tokens, copies, axis=0), arrays)


def _of_copy(record: Record, input: Input, copy: int, copies: int) -> Record:
    def own(recorded: Mapping[int, Tensor]) -> dict[int, Tensor]:
        return {at: of[copy::copies] for at, of in recorded.items()}

    return Record(
        input,
        None if record.loss is None else record.loss[copy::copies],
        logits=own(record.logits),
        head_outputs=own(record.head_outputs),
        hidden_states=own(record.hidden_states),
    )


def _with_layers_below(record: Record, pass_: Pass, unchanged: Record) -> Record:
    """Return the record with the outputs and streams that the change does not reach."""
    outputs, streams = pass_.below_change
    return replace(
        record,
        head_outputs={at: unchanged.head_outputs[at] for at in outputs} | {**record.head_outputs},
        hidden_states={at: unchanged.hidden_states[at] for at in streams}
        | {**record.hidden_states},
    )
