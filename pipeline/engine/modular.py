"""The record of the whole p x p table on a one-layer organism, by the factorised forward pass."""

import torch
from transformers import PreTrainedModel

from pipeline.engine.record import Pass, Record
from pipeline.errors import InputError
from pipeline.inputs import Input
from pipeline.models.organism import OrganismForCausalLM
from pipeline.models.table_forward import factorises, forward_table

# Positions of '=' in (a, b, '='), counted from either end.
_AT_EQUALS = {-1, 2}


def table_record(module: PreTrainedModel, input: Input, pass_: Pass) -> Record | None:
    """Return the record of `pass_`, or None where it needs the plain forward pass.

    Applies to an input of kind "table", a model that `factorises`, and requests at '=' only.
    Raises InputError where neurons are asked for, which the plain pass does not record.
    """
    at_equals = set(pass_.logit_positions) <= _AT_EQUALS
    inside = pass_.attention or pass_.head_outputs or pass_.hidden_states or pass_.change
    only_at_equals = at_equals and not pass_.losses and not inside
    if input.kind == "table" and only_at_equals and factorises(module):
        return _record(module, input, pass_)
    if pass_.neurons:
        raise InputError(
            f"input {input.name!r}: neurons are recorded for the whole table and a one-layer "
            "organism without smeared keys and fixed attention only, not for this "
            f"{type(module).__name__}"
        )
    return None


@torch.inference_mode()
def _record(module: OrganismForCausalLM, input: Input, pass_: Pass) -> Record:
    made = forward_table(module, input.attributes["p"], keep_neurons=pass_.neurons)
    logits = made.logits.to("cpu")
    neurons = None if made.neurons is None else made.neurons.to("cpu")
    return Record(input, logits=dict.fromkeys(pass_.logit_positions, logits), neurons=neurons)
