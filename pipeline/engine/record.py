"""The request of a measure to a forward pass (`Pass`), and its result (`Record`).

These are values only: the engine in `forward.py` reads a Pass and fills a Record.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.inputs import Input


@dataclass(frozen=True)
class Lag:
    """Attention from query i to key i - lag; NaN where i < lag. lag = 0 is the token itself."""

    lag: int


@dataclass(frozen=True)
class KeyPosition:
    """Attention from each query to the one key at `position`; NaN for queries before it."""

    position: int


@dataclass(frozen=True, eq=False)
class KeyMap:
    """Attention from each query to the key that an index map names.

    `index[s, i]` is the key position requested for query i of sequence s; -1 where there is none
    (NaN in the record). Two maps with equal indices are equal, so that measures that request the
    same attention share it.
    """

    index: Int[np.ndarray, "sequence query"]

    @cached_property
    def digest(self) -> str:
        """sha256 of the indices, by which maps are compared and hashed."""
        return hashlib.sha256(self.index.astype(np.int64).tobytes()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeyMap) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


@dataclass(frozen=True)
class LagMeans:
    """Mean attention at each lag 0 .. n_lags - 1, over the queries of a sequence with such a key.

    Yields Float[Tensor, "layer sequence head lag"], summed while the model runs, so that nothing is
    kept per query. NaN for lags that no query has.
    """

    n_lags: int


@dataclass(frozen=True)
class Entropy:
    """Entropy of each query's attention to its keys, -sum_j p[i, j] log p[i, j], in nats.

    p is the attention that the model uses: a learned sink takes its share of it, but is no term of
    the sum.
    """


@dataclass(frozen=True)
class Corner:
    """All attention among the first `length` tokens of the first `sequences` sequences.

    Yields Float[Tensor, "layer corner_sequence head query_key"], the matrices of `length` x
    `length` numbers row by row (query by query). 0 where the key comes after the query.
    """

    sequences: int
    length: int


# A request yields Float[Tensor, "layer sequence head query"] unless its class states another shape.
PairRequest = Lag | KeyPosition | KeyMap
Reduced = LagMeans | Entropy | Corner
AttentionRequest = PairRequest | Reduced


@dataclass(frozen=True)
class OutputOn:
    """The output of a head on another input of the same shape, sequence by sequence."""

    input: str


@runtime_checkable
class KeyRule(Protocol):
    """A rule on tokens that allows keys to queries; equal rules have equal hashes."""

    def allowed(
        self, tokens: Int[Tensor, "batch position"], queries: range, keys: range
    ) -> Bool[Tensor, "batch query key"]:
        """Return which keys of a range the rule allows to the queries of another.

        Entries whose key comes after the query do not count.
        """
        ...


@dataclass(frozen=True)
class ReadFrom:
    """The part of a head's output that it reads from the keys j that a rule allows to a query i.

    It is the sum of p[i, j] v[j], with the p of the whole softmax. rest: what replaces the sum over
    all other keys: "zero", or "mean", its mean over all tokens of the input without the change.
    """

    rule: KeyRule
    rest: Literal["zero", "mean"] = "mean"


Kept = Literal["queries", "keys", "values"]

# What heads keep that keep their attention patterns.
PATTERNS: frozenset[Kept] = frozenset({"queries", "keys"})


@dataclass(frozen=True)
class HeadChange:
    """Heads (layer, head) whose outputs, before W_O, are replaced while the model runs.

    to: "zero"; "mean", the head's own mean over all tokens of the input; its output on another
    input at the same position; or what it reads from some keys. kept: what all heads keep as it is
    without the change. With `PATTERNS` it is their attention patterns, so that the change acts
    through values only.
    """

    heads: tuple[tuple[int, int], ...]
    to: Literal["zero", "mean"] | OutputOn | ReadFrom = "zero"
    kept: frozenset[Kept] = frozenset()

    @property
    def first_layer(self) -> int:
        """The lowest layer with a changed head."""
        return min(self.layers)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers with a changed head, ascending."""
        return tuple(sorted({layer for layer, _ in self.heads}))


@dataclass(frozen=True)
class Pass:
    """One forward pass over one input, with the list of what its record holds.

    losses: per-token cross-entropy. attention: the query-key pairs whose attention is recorded.
    logit_positions: positions (negative ones count from the end) whose full logits are recorded.
    neurons: the activations of the MLP at the last position, of a one-layer model.
    head_outputs: layers whose per-head outputs, before W_O, are recorded. hidden_states: layers
    whose incoming residual stream is recorded; n_layers is the output of the last one, before the
    final norm. change: the replaced head outputs; such a pass records neither attention nor
    neurons. dtype: of the forward pass; "" means the worker's own.
    """

    input: str
    losses: bool = False
    attention: frozenset[AttentionRequest] = frozenset()
    logit_positions: tuple[int, ...] = ()
    neurons: bool = False
    head_outputs: tuple[int, ...] = ()
    hidden_states: tuple[int, ...] = ()
    change: HeadChange | None = None
    dtype: Literal["", "float32", "float64", "bfloat16"] = ""

    @property
    def key(self) -> tuple:
        """The properties that two requests must share to use one forward pass."""
        return (self.input, self.change, self.dtype)

    @property
    def keeps_nothing(self) -> bool:
        """True if the record holds the input only, so that the model need not run."""
        return self == Pass(self.input, change=self.change, dtype=self.dtype)

    @property
    def below_change(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The layers of `head_outputs` and of `hidden_states` that the change does not reach."""
        first = 0 if self.change is None else self.change.first_layer
        return (
            tuple(layer for layer in self.head_outputs if layer < first),
            tuple(layer for layer in self.hidden_states if layer <= first),
        )

    @property
    def needs(self) -> tuple["Pass", ...]:
        """The passes without change from which this one starts: see `pipeline.engine.changes`."""
        if self.change is None:
            return ()
        first, layers, to = self.change.first_layer, self.change.layers, self.change.to
        outputs, streams = self.below_change
        partly = isinstance(to, ReadFrom)
        # For the mean of what is left out, the parts of each layer are taken separately.
        entered = layers if partly and to.rest == "mean" else (first,)
        start = tuple(layer for layer in entered if layer and layer not in streams)
        below = Pass(
            self.input, head_outputs=outputs, hidden_states=streams + start, dtype=self.dtype
        )
        if to == "zero" or (partly and to.rest == "zero"):
            return (below,)
        source = to.input if isinstance(to, OutputOn) else self.input
        return (below, Pass(source, head_outputs=layers, dtype=self.dtype))


def merge(passes: Iterable[Pass]) -> list[Pass]:
    """Return the fewest passes that serve all of `passes`, in an order in which they can run."""
    merged: dict[tuple, Pass] = {}
    for wanted in [needed for one in passes for needed in (*one.needs, one)]:
        have = merged.get(wanted.key)
        merged[wanted.key] = wanted if have is None else _union(have, wanted)
    return list(merged.values())


def _union(a: Pass, b: Pass) -> Pass:
    return Pass(
        input=a.input,
        losses=a.losses or b.losses,
        attention=a.attention | b.attention,
        logit_positions=tuple(dict.fromkeys(a.logit_positions + b.logit_positions)),
        neurons=a.neurons or b.neurons,
        head_outputs=tuple(dict.fromkeys(a.head_outputs + b.head_outputs)),
        hidden_states=tuple(dict.fromkeys(a.hidden_states + b.hidden_states)),
        change=a.change,
        dtype=a.dtype,
    )


@dataclass(frozen=True)
class Record:
    """The result of one forward pass, with nothing averaged.

    loss[s, t]: -log p(token t+1 | tokens 0..t) in nats (None where not requested).
    attention: per request, see the request's class. In layers that do not attend, attention and
    head_outputs are NaN.
    logits: per requested position, under the number in the request. neurons: the inputs of W_out.
    head_outputs, hidden_states: per requested layer.
    """

    input: Input
    loss: Float[Tensor, "sequence prediction"] | None = None
    attention: Mapping[AttentionRequest, Float[Tensor, "layer _ head _"]] = field(
        default_factory=dict
    )
    logits: Mapping[int, Float[Tensor, "sequence vocabulary"]] = field(default_factory=dict)
    neurons: Float[Tensor, "sequence neuron"] | None = None
    head_outputs: Mapping[int, Float[Tensor, "sequence position head d_value"]] = field(
        default_factory=dict
    )
    hidden_states: Mapping[int, Float[Tensor, "sequence position d_model"]] = field(
        default_factory=dict
    )

    @property
    def kept_loss(self) -> Float[Tensor, "sequence prediction"]:
        """The loss. Raises TypeError where the pass did not record it."""
        if self.loss is None:
            raise TypeError("the pass did not record losses: give Pass(..., losses=True)")
        return self.loss

    @property
    def kept_neurons(self) -> Float[Tensor, "sequence neuron"]:
        """The neurons. Raises TypeError where the pass did not record them."""
        if self.neurons is None:
            raise TypeError("the pass did not record neurons: give Pass(..., neurons=True)")
        return self.neurons
