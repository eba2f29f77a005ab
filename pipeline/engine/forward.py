"""One forward pass over one input: a `Pass` is the request, a `Record` the result.

The model's own code runs. Hooks record at three places: in its attention (`attention.py`), at the
input of its blocks, and at its unembedding, whose input is turned into losses tile by tile
(`cross_entropy.py`) while the model itself continues with a placeholder.
"""

import inspect
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.engine import attention, products
from pipeline.engine.activations import numbers_per_token
from pipeline.engine.attention_hooks import hooked
from pipeline.engine.causality import refuse_padding_before, refuse_reading_ahead
from pipeline.engine.cross_entropy import token_losses
from pipeline.engine.head_edits import Edit
from pipeline.engine.modular import table_record
from pipeline.engine.pairs import resolve
from pipeline.engine.partial_reads import marked
from pipeline.engine.record import Pass, Record
from pipeline.engine.recorder import Recorder, blank
from pipeline.engine.streams import Stream, started_at, watched_stream, wide
from pipeline.engine.unembedding import logit_transform, replaced_unembedding, unembedding_of
from pipeline.errors import InputError
from pipeline.inputs import Input
from pipeline.models.facts import ModelFacts
from pipeline.models.layers import uses_interface
from pipeline.models.resident import Resident

# Part of every fingerprint: raise it whenever a change here moves stored numbers beyond rounding.
ENGINE_VERSION = 2

# Bytes of activations of one batch: enough tokens to keep the products busy, few enough to stay
# in the cache. Less where the caller's memory is less.
_BATCH_BYTES = {"cpu": 1 << 26, "cuda": 1 << 32}

# Fused attention on CUDA starts a block of threads for each sequence, and a grid has no more.
_MOST_SEQUENCES = 65_535


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
    memory_bytes: int | None = None,
    resumed: Resumed | None = None,
) -> Record:
    """Run one forward pass of the resident's current weights on `input`; return its record.

    Sequences are split into batches by a fixed rule on shapes, so that at most about `memory_bytes`
    of activations exist at a time. `input.arrays["attention_mask"]` [sequence, position], if given,
    marks padding with 0: entries of padding are NaN in the record. The whole table of a one-layer
    organism is computed by `models/table_forward.py` where the request allows it.

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
        most = batch_size(resident.facts, module, input.tokens.shape[1], memory_bytes)
    together = 1 if resumed is None else resumed.copies
    job = _Job(module, traits, resident.facts, input, pass_, resumed)
    with torch.inference_mode():
        for sequences in _even_batches(len(input.tokens), most, together):
            job.compute(sequences)
    return job.record()


def _even_batches(n: int, most: int, together: int) -> Iterator[slice]:
    """Yield the fewest batches of at most `most` rows, in multiples of `together`, evenly sized.

    Even sizes, because matrix products over a small last batch are slow.
    """
    groups = n // together
    # The inner quotient is the number of batches, the outer one their even size.
    size = math.ceil(groups / math.ceil(groups / max(1, most // together))) * together
    for first in range(0, n, size):
        yield slice(first, min(first + size, n))


def batch_size(
    facts: ModelFacts, module: PreTrainedModel, length: int, memory_bytes: int | None
) -> int:
    """Return the sequences per batch, from shapes, dtype and kind of device alone; at least one."""
    bytes_ = numbers_per_token(facts, module, length) * length * module.dtype.itemsize
    fit = batch_bytes(module.device.type, memory_bytes) // bytes_
    return min(max(1, fit), _MOST_SEQUENCES)


def batch_bytes(device: str, memory_bytes: int | None) -> int:
    """Return the bytes of activations of one batch, of which the caller allows `memory_bytes`."""
    usual = _BATCH_BYTES["cuda" if device == "cuda" else "cpu"]
    return min(usual, memory_bytes or usual)


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


class _Job:
    """One pass under way: its record, filled batch by batch."""

    def __init__(
        self,
        module: PreTrainedModel,
        traits: _Traits,
        facts: ModelFacts,
        input: Input,
        pass_: Pass,
        resumed: Resumed | None,
    ) -> None:
        self.resumed, self.head_outputs = resumed, pass_.head_outputs
        self.module, self.traits, self.facts, self.input = module, traits, facts, input
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
            head_outputs={k: [] for k in pass_.head_outputs if k in facts.attention_layers},
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
        self.streams: dict[int, list[Stream]] = {layer: [] for layer in pass_.hidden_states}

    def compute(self, sequences: slice) -> None:
        """Run the model on some of the sequences and fill in their part of the record."""
        tokens = self.tokens[sequences].to(self.module.device)
        self.recorder.sequences = sequences
        hidden = self._hidden(tokens, sequences)
        if self.loss is not None:
            h, targets = hidden[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
            losses = token_losses(h, targets, self.unembedding)
            self.loss[sequences] = losses.view(len(tokens), -1).to("cpu")
        for position, logits in self.logits.items():
            logits[sequences] = self.unembedding.logits(hidden[:, position]).to("cpu")

    def _hidden(self, tokens: Int[Tensor, "batch position"], sequences: slice) -> Stream:
        """Run the model; return the input of its unembedding."""
        arguments = {"input_ids": tokens, "use_cache": False, **self._padding(sequences)}
        taken: list[Stream] = []

        def take(h: Stream) -> Float[Tensor, "batch position 1"]:
            taken.append(h)
            return h.new_zeros(*h.shape[:-1], 1)  # a vocabulary of one: nothing reads these logits

        with ExitStack() as stack:
            stack.enter_context(replaced_unembedding(self.module, take))
            # Before streams are watched, because it may run the model on a token of its own.
            if self.resumed is not None:
                stack.enter_context(self._started(self.resumed, sequences))
            stack.enter_context(watched_stream(self.module, self.facts.n_layers, self.streams))
            stack.enter_context(attention.recording(self.recorder, self.facts.attention_layers))
            if self.facts.attention_layers and not uses_interface(self.module):
                stack.enter_context(hooked(self.module, self.facts.n_heads))
                arguments["output_attentions"] = bool(self.recorder.pairs)
            self.module(**arguments)
        return taken[0]

    def _started(self, resumed: Resumed, rows: slice) -> AbstractContextManager[None]:
        stream, n = resumed.stream, resumed.copies
        if stream is not None:
            of_rows = stream[rows.start // n : rows.stop // n].to(self.module.device)
            stream = of_rows.to(self.module.dtype).repeat_interleave(n, dim=0)
        return started_at(self.module, self.facts.n_layers, resumed.layer, stream)

    def _padding(self, sequences: slice) -> dict[str, Any]:
        """Return the arguments for a padded batch; positions count from the first real token."""
        if self.seen is None:
            return {}
        seen = self.seen[sequences].to(self.module.device)
        arguments = {"attention_mask": seen.long()}
        if self.traits.takes_positions:
            # Models would otherwise number padding too; their outputs for it are never read.
            arguments["position_ids"] = (seen.cumsum(dim=1) - 1).clamp(min=0)
        return arguments

    def _head_outputs(self) -> dict[int, Float[Tensor, "sequence position head d_value"]]:
        """Return the recorded outputs; NaN, without memory of its own, in layers without heads."""
        blank = torch.tensor(torch.nan, dtype=wide(self.module.dtype))
        shape = (*self.tokens.shape, self.facts.n_heads, self.facts.d_head)
        silent = [k for k in self.head_outputs if k in self.facts.without_attention]
        return {k: blank.expand(shape) for k in silent} | _joined(self.recorder.head_outputs)

    def record(self) -> Record:
        """Return the finished record."""
        if self.loss is not None and self.seen is not None:
            unseen = ~(self.seen[:, :-1] & self.seen[:, 1:])
            self.loss.masked_fill_(unseen, torch.nan)
        return Record(
            self.input,
            self.loss,
            self.recorder.attention,
            self.logits,
            head_outputs=self._head_outputs(),
            hidden_states=_joined(self.streams),
        )


def _joined(
    batches: Mapping[int, list[Float[Tensor, "_ position *rest"]]],
) -> dict[int, Float[Tensor, "sequence position *rest"]]:
    return {layer: torch.cat(parts) for layer, parts in batches.items()}


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
