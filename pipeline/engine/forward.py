"""One forward pass over one input: a `Pass` is the request, a `Record` the result.

The model's own code runs. Hooks record at three places: in its attention (`attention.py`), at the
input of its blocks, and at its unembedding, whose input is turned into losses tile by tile
(`cross_entropy.py`) while the model itself continues with a placeholder.
"""

import inspect
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.engine import attention, products
from pipeline.engine.attention_hooks import hooked
from pipeline.engine.batches import Limits, batch_size, batches_of
from pipeline.engine.causality import refuse_padding_before, refuse_reading_ahead
from pipeline.engine.cross_entropy import token_losses
from pipeline.engine.head_edits import Edit
from pipeline.engine.modular import table_record
from pipeline.engine.pairs import resolve
from pipeline.engine.partial_reads import marked
from pipeline.engine.record import Pass, Record
from pipeline.engine.recorder import Recorder, blank
from pipeline.engine.replicas import Replicas
from pipeline.engine.streams import Stream, started_at, watched_stream, wide
from pipeline.engine.threads import in_threads, threads_on
from pipeline.engine.unembedding import logit_transform, replaced_unembedding, unembedding_of
from pipeline.errors import InputError
from pipeline.inputs import Input
from pipeline.models.facts import ModelFacts
from pipeline.models.layers import uses_interface
from pipeline.models.resident import Resident

# Part of every fingerprint: raise it whenever a change here moves stored numbers beyond rounding.
ENGINE_VERSION = 2


@dataclass(frozen=True)
class Resumed:
    """A pass that starts at `layer`, with heads changed from there on (`changes.py` makes them).

    The rows of its input are `edit.copies` of each sequence. stream: the residual stream that
    enters the layer, once for each sequence; None for the first layer.
    """

    layer: int
    stream: Float[Tensor, "sequence position d_model"] | None
    edit: Edit

    @property
    def copies(self) -> int:
        """Number of rows for each sequence."""
        return len(self.edit.copies)


def run(
    resident: Resident,
    input: Input,
    pass_: Pass,
    limits: Limits = Limits(),
    resumed: Resumed | None = None,
) -> Record:
    """Run one forward pass of the resident's current weights on `input`; return its record.

    Sequences are split into batches by a fixed rule on shapes, threads and `limits`.
    `input.arrays["attention_mask"]` [sequence, position], if given, marks padding with 0: entries
    of padding are NaN in the record. The whole table of a one-layer organism is computed by
    `models/table_forward.py` where the request allows it.

    Raises InputError for tokens that do not fit the model, and for models that cannot be recorded
    exactly.
    """
    with torch.inference_mode():
        module = resident.module_in(pass_.dtype)
        _check_tokens(input, resident.facts)
        if pass_.keeps_nothing:
            return Record(input)
        if (made := table_record(module, input, pass_)) is not None:
            return made
        traits = _set_up(module)
        if resident.facts.without_attention:
            refuse_reading_ahead(module, resident.facts.vocabulary)
            refuse_padding_before(input)
        most = batch_size(resident.facts, module, input.tokens.shape[1], limits.memory_bytes)
    together = 1 if resumed is None else resumed.copies
    threads = threads_on(module.device)
    batches = batches_of(len(input.tokens), most, together, threads, limits.divided)
    replicas = Replicas(module, min(threads, len(batches)))
    job = _Job(module, traits, resident.facts, input, pass_, resumed)

    def compute(sequences: slice) -> _Part:
        with torch.inference_mode(), replicas.borrowed() as own:
            return job.compute(own, sequences)

    return job.record(in_threads(compute, batches, module.device))


@dataclass(frozen=True)
class _Traits:
    """The properties of a module that are determined once, by running it on a few tokens."""

    scale: float
    softcap: float | None
    takes_positions: bool


# By module, and weakly: the entry goes when the worker drops the model.
_TRAITS: WeakKeyDictionary[nn.Module, _Traits] = WeakKeyDictionary()


def _set_up(module: PreTrainedModel) -> _Traits:
    if module not in _TRAITS:
        if uses_interface(module):
            module.set_attn_implementation(attention.NAME)
        products.replace_linear(module)
        products.align_precision(module.device)
        scale, softcap = logit_transform(module)
        # The outer forward may pass `position_ids` on to the body within its **kwargs.
        takes_positions = any(
            "position_ids" in inspect.signature(part.forward).parameters
            for part in (module, module.base_model)
        )
        _TRAITS[module] = _Traits(scale, softcap, takes_positions)
    return _TRAITS[module]


@dataclass(frozen=True)
class _Part:
    """Head outputs and streams of one batch, which are joined with those of the others."""

    head_outputs: Mapping[int, list[Float[Tensor, "batch position head d_value"]]]
    streams: Mapping[int, list[Stream]]


class _Job:
    """One pass under way: its record, filled by batches, of which several may run at a time."""

    def __init__(
        self,
        module: PreTrainedModel,
        traits: _Traits,
        facts: ModelFacts,
        input: Input,
        pass_: Pass,
        resumed: Resumed | None,
    ) -> None:
        self.resumed, self.pass_ = resumed, pass_
        self.dtype, self.traits, self.facts, self.input = module.dtype, traits, facts, input
        self.unembedding = unembedding_of(module, traits.scale, traits.softcap)
        sequences, length = input.tokens.shape
        self.tokens = torch.from_numpy(input.tokens)
        self.seen = _seen(input)
        dtype = wide(module.dtype)
        shape = (facts.n_layers, sequences, facts.n_heads, length)
        padding = None if self.seen is None else ~self.seen
        self.recorder = Recorder(
            pairs={r: resolve(r, input.tokens) for r in pass_.attention},
            attention=blank(pass_.attention, shape, dtype),
            first_layer=resumed.layer if resumed else 0,
            edit=resumed.edit if resumed else None,
            tokens=marked(self.tokens, padding),
            padding=padding,
        )
        # On the CPU: a record may be larger than a GPU's memory, and measures work on it there.
        self.loss = torch.empty(sequences, length - 1, dtype=dtype) if pass_.losses else None
        self.logits = {
            p: torch.empty(sequences, facts.vocabulary, dtype=dtype) for p in pass_.logit_positions
        }

    def compute(self, module: PreTrainedModel, sequences: slice) -> _Part:
        """Run a replica of the model on some of the sequences and fill in their part of the record.

        Return what cannot be filled in, since its shape follows from the model's own code.
        """
        tokens = self.tokens[sequences].to(module.device)
        layers = [k for k in self.pass_.head_outputs if k in self.facts.attention_layers]
        part = _Part({k: [] for k in layers}, {k: [] for k in self.pass_.hidden_states})
        hidden = self._hidden(module, tokens, sequences, part)
        if self.loss is not None:
            h, targets = hidden[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
            losses = token_losses(h, targets, self.unembedding)
            self.loss[sequences] = losses.view(len(tokens), -1).to("cpu")
        for position, logits in self.logits.items():
            logits[sequences] = self.unembedding.logits(hidden[:, position]).to("cpu")
        return part

    def _hidden(
        self,
        module: PreTrainedModel,
        tokens: Int[Tensor, "batch position"],
        sequences: slice,
        part: _Part,
    ) -> Stream:
        """Run the model; return the input of its unembedding."""
        recorder = replace(self.recorder, sequences=sequences, head_outputs=part.head_outputs)
        arguments = {"input_ids": tokens, "use_cache": False, **self._padding(module, sequences)}
        taken: list[Stream] = []

        def take(h: Stream) -> Float[Tensor, "batch position 1"]:
            taken.append(h)
            return h.new_zeros(*h.shape[:-1], 1)  # a vocabulary of one: nothing reads these logits

        with ExitStack() as stack:
            stack.enter_context(replaced_unembedding(module, take))
            # Before streams are watched, because it may run the model on a token of its own.
            if self.resumed is not None:
                stack.enter_context(self._started(module, self.resumed, sequences))
            stack.enter_context(watched_stream(module, self.facts.n_layers, part.streams))
            stack.enter_context(attention.recording(recorder, self.facts.attention_layers))
            if self.facts.attention_layers and not uses_interface(module):
                stack.enter_context(hooked(module, self.facts.n_heads))
                arguments["output_attentions"] = bool(recorder.pairs)
            module(**arguments)
        return taken[0]

    def _started(
        self, module: PreTrainedModel, resumed: Resumed, rows: slice
    ) -> AbstractContextManager[None]:
        stream, n = resumed.stream, resumed.copies
        if stream is not None:
            of_rows = stream[rows.start // n : rows.stop // n].to(module.device)
            stream = of_rows.to(module.dtype).repeat_interleave(n, dim=0)
        return started_at(module, self.facts.n_layers, resumed.layer, stream)

    def _padding(self, module: PreTrainedModel, sequences: slice) -> dict[str, Any]:
        """Return the arguments for a padded batch; positions count from the first real token.

        Padding, whose outputs are never read, has the largest position of the input: some models
        choose rotary frequencies (longrope) by the largest of a batch, which is then the same in
        each.
        """
        if self.seen is None:
            return {}
        seen = self.seen[sequences].to(module.device)
        arguments = {"attention_mask": seen.long()}
        if self.traits.takes_positions:
            # Models would otherwise number padding too.
            largest = int(self.seen.sum(dim=1).max()) - 1
            arguments["position_ids"] = (seen.cumsum(dim=1) - 1).where(seen, max(0, largest))
        return arguments

    def _head_outputs(
        self, parts: Sequence[_Part]
    ) -> dict[int, Float[Tensor, "sequence position head d_value"]]:
        """Return the recorded outputs; NaN, without memory of its own, in layers without heads."""
        blank = torch.tensor(torch.nan, dtype=wide(self.dtype))
        shape = (*self.tokens.shape, self.facts.n_heads, self.facts.d_head)
        silent = [k for k in self.pass_.head_outputs if k in self.facts.without_attention]
        recorded = _joined([part.head_outputs for part in parts])
        return {k: blank.expand(shape) for k in silent} | recorded

    def record(self, parts: Sequence[_Part]) -> Record:
        """Return the finished record, with the parts of all batches in order."""
        if self.loss is not None and self.seen is not None:
            unseen = ~(self.seen[:, :-1] & self.seen[:, 1:])
            self.loss.masked_fill_(unseen, torch.nan)
        return Record(
            self.input,
            self.loss,
            self.recorder.attention,
            self.logits,
            head_outputs=self._head_outputs(parts),
            hidden_states=_joined([part.streams for part in parts]),
        )


def _joined(
    batches: Sequence[Mapping[int, list[Float[Tensor, "_ position *rest"]]]],
) -> dict[int, Float[Tensor, "sequence position *rest"]]:
    return {layer: torch.cat([one for of in batches for one in of[layer]]) for layer in batches[0]}


def _seen(input: Input) -> Bool[Tensor, "sequence position"] | None:
    mask = input.arrays.get("attention_mask")
    # A mask without padding would only choose slower kernels.
    return None if mask is None or mask.all() else torch.from_numpy(mask.astype(bool))


def _check_tokens(input: Input, facts: ModelFacts) -> None:
    top, length = int(input.tokens.max()), input.tokens.shape[1]
    if top >= facts.vocabulary or int(input.tokens.min()) < 0:
        raise InputError(
            f"input {input.name!r}: holds token id {top}, but the model's vocabulary has "
            f"{facts.vocabulary} ids: use the run's own tokenizer"
        )
    if facts.context is not None and length > facts.context:
        raise InputError(
            f"input {input.name!r}: its sequences have {length} tokens, but the model's context is "
            f"{facts.context}: shorten the input"
        )
