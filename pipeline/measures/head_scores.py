"""Five attention patterns that name a head, on repeated random tokens."""

from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.engine.record import AttentionRequest, KeyMap, KeyPosition, Lag, Pass, Record
from pipeline.inputs import Input
from pipeline.measures.base import Measure, Reference, Setting, require_input
from pipeline.models.loading import Weights
from pipeline.schema import Variable

_OLSSON = "Olsson et al. 2022, In-context Learning and Induction Heads"
_HEAD = ("step", "layer", "head")


class HeadScores(Measure):
    """How much of its attention a head spends where five simple patterns would.

    Input: [BOS], then a block of n random token ids drawn without replacement, repeated. Where
    p[i, j] is the attention of query i to key j, averaged over sequences and over queries:

    - `previous_token`  p[i, i-1], `current_token` p[i, i], `first_token` p[i, 0]: over the queries
      of the FIRST block, whose tokens are random and unrepeated, from its second token on (the
      first token of a block has BOS or nothing before it).
    - `duplicate_token` sum of p[i, j] over ALL earlier occurrences j of the query's own token;
    - `induction` (prefix matching) sum of p[i, j+1] over the same j: the tokens that came right
      after those occurrences. Both: over all queries of the second and later blocks. With block
      length n they lie at lags m n and m n - 1, for m = 1 .. number of earlier blocks.

    All lie in [0, 1]. Departures from the paper: blocks are of any length and repeated any number
    of times (25 tokens, 4 times there), and the ids are not filtered by frequency.
    """

    name = "head_scores"
    version = 1
    default_input = "repeated"
    variables = (
        Variable("previous_token", _HEAD, "1", "Mean attention to the token before.", _OLSSON),
        Variable("duplicate_token", _HEAD, "1",
                 "Mean attention to all earlier occurrences of the query's token."),
        Variable("induction", _HEAD, "1",
                 "Mean attention to the tokens that followed all earlier occurrences of the "
                 "query's token (prefix matching).", _OLSSON),
        Variable("first_token", _HEAD, "1", "Mean attention to the first token (attention sink)."),
        Variable("current_token", _HEAD, "1", "Mean attention to the query's own position."),
    )  # fmt: skip

    def check(self, setting: Setting) -> None:
        """Defined on repeated random tokens only."""
        require_input(self, setting, "repeated")

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """One pass that keeps a few diagonals of the attention."""
        layout = BlockLayout(require_input(self, setting, "repeated"))
        return (Pass(layout.input.name, attention=frozenset(layout.requests)),)

    def compute(
        self, records: tuple[Record, ...], weights: Weights, reference: Reference | None
    ) -> dict[str, np.ndarray]:
        """See the class."""
        attention, layout = records[0].attention, BlockLayout(records[0].input)
        first, later = layout.first_block_queries, layout.later_queries
        return {
            "previous_token": mean_over(attention[Lag(1)], first),
            "current_token": mean_over(attention[Lag(0)], first),
            "first_token": mean_over(attention[KeyPosition(0)], first),
            "duplicate_token": _sum(mean_over(attention[m], later, m) for m in layout.duplicates),
            "induction": _sum(mean_over(attention[m], later, m) for m in layout.successors),
        }


class BlockLayout:
    """Where the blocks of a repeated-token input lie, and which keys its queries ask about."""

    def __init__(self, made: Input) -> None:
        self.input = made
        self.start = int(made.attributes["has_bos"])
        self.block = int(made.attributes["block_length"])
        self.repeats = int(made.attributes["repeats"])

    @property
    def first_block_queries(self) -> Int[np.ndarray, " query"]:
        """Positions of the first block, from its second token on."""
        return np.arange(self.start + 1, self.start + self.block)

    @property
    def later_queries(self) -> Int[np.ndarray, " query"]:
        """Positions of the second and later blocks."""
        return np.arange(self.start + self.block, self.start + self.block * self.repeats)

    @cached_property
    def duplicates(self) -> tuple[KeyMap, ...]:
        """Of each query the m-th earlier occurrence of its token, one map for each m."""
        return tuple(self._blocks_back(m, 0) for m in range(1, self.repeats))

    @cached_property
    def successors(self) -> tuple[KeyMap, ...]:
        """Of each query the token after the m-th earlier occurrence, one map for each m."""
        return tuple(self._blocks_back(m, 1) for m in range(1, self.repeats))

    @property
    def requests(self) -> tuple[AttentionRequest, ...]:
        """All that the five scores need."""
        return (Lag(0), Lag(1), KeyPosition(0), *self.duplicates, *self.successors)

    def _blocks_back(self, m: int, offset: int) -> KeyMap:
        sequences, length = self.input.tokens.shape
        earlier = np.arange(length) - m * self.block
        key = np.where(earlier >= self.start, earlier + offset, -1)
        return KeyMap(np.broadcast_to(key, (sequences, length)))


def mean_over(
    attention: Float[Tensor, "layer sequence head query"],
    queries: Int[np.ndarray, " query"],
    request: AttentionRequest | None = None,
) -> Float[np.ndarray, "layer head"]:
    """Mean over sequences and the given queries; a query without such a key counts as 0."""
    chosen = attention[..., queries].double()
    if isinstance(request, KeyMap):
        chosen = chosen.where(torch.from_numpy(request.index[:, queries] >= 0)[None, :, None], 0)
    return chosen.sum(dim=-1).mean(dim=1).numpy() / len(queries)


def _sum(terms) -> Float[np.ndarray, "layer head"]:
    return np.sum(list(terms), axis=0)
