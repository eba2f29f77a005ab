"""Scores of five attention patterns on repeated random tokens, and their nulls."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.engine.record import KeyMap, KeyPosition, Lag, Pass, Record
from pipeline.measures.base import Context, Measure, Setting
from pipeline.measures.blocks import KeyRequests, blocks_of
from pipeline.schema import Variable

_OLSSON = "Olsson et al. 2022, In-context Learning and Induction Heads"
_HEAD = ("step", "layer", "head")


class HeadScores(Measure):
    """Share of a head's attention that follows each of five simple patterns.

    Input: [BOS], then a block of random token ids drawn without replacement, repeated. The blocks
    of different sequences have different lengths, unless the input says otherwise; later blocks
    are in the order of the first, or shuffled. Where p[i, j] is the attention of query i to key j,
    averaged over sequences and over queries:

    - `previous_token`  p[i, i-1], `current_token` p[i, i], `first_token` p[i, 0]: over the queries
      of the FIRST block, whose tokens are random and unrepeated, from its second token on (the
      first token of a block has BOS or nothing before it).
    - `duplicate_token` sum of p[i, j] over ALL earlier occurrences j of the query's own token;
    - `induction` (prefix matching) sum of p[i, j+1] over the same j: the tokens that came right
      after those occurrences. Both: over all queries of the second and later blocks. Queries after
      the last whole block, in sequences with shorter blocks, are not counted.

    The nulls are the scores of a head without the pattern:

    - `duplicate_token_null`, `induction_null`: the same sums over keys that match nothing, at the
      distances of the matches of OTHER queries (those of sequences with another block length).
      Every query gets a set of distances that is not its own, has its keys after BOS, and none at a
      match, at a match's successor, at the query or right before it; sets are distributed evenly,
      in proportion to the number of queries that own each. A query that no set fits is left out.
      The score of a head that attends a fixed distance L back is the share of queries whose match
      is L back, and its null is the share of queries whose set contains L: these shares are equal
      in expectation, and so are its score and its null. An induction head has a null of about 0.
    - `uniform_null`: uniform attention to one key, the mean of 1 / (i + 1) over the queries of
      `previous_token`, `current_token` and `first_token`.

    Where all matches are at one distance (one block length for all sequences, `vary: false`, in
    the order of the first block), an induction head cannot be distinguished from a head that
    attends a fixed distance back, and the first two nulls are NaN. They are also NaN where blocks
    are so short (below 8 tokens) or so few that the score of some fixed distance would exceed its
    null by more than 0.25. `pipeline.measures.head_patterns` defines when a head has a pattern.

    Scores are in [0, 1]. Departures from the paper: blocks are of any length, of different lengths
    and repeated any number of times (25 tokens, 4 times there), and the ids are not filtered by
    frequency.
    """

    name = "head_scores"
    version = 2
    default_input = "repeated"
    input_kind = "repeated"
    needs_heads = True
    variables = (
        Variable("previous_token", _HEAD, "1", "Mean attention to the token before.", _OLSSON),
        Variable("duplicate_token", _HEAD, "1",
                 "Mean attention to all earlier occurrences of the query's token."),
        Variable("induction", _HEAD, "1",
                 "Mean attention to the tokens that followed all earlier occurrences of the "
                 "query's token (prefix matching).", _OLSSON),
        Variable("first_token", _HEAD, "1", "Mean attention to the first token (attention sink)."),
        Variable("current_token", _HEAD, "1", "Mean attention to the query's own position."),
        Variable("duplicate_token_null", _HEAD, "1",
                 "Mean attention to keys without a match, at distances at which other queries have "
                 "earlier occurrences of their token."),
        Variable("induction_null", _HEAD, "1",
                 "Mean attention to keys without a match, at distances at which other queries have "
                 "the tokens that followed."),
        Variable("uniform_null", ("step",), "1", "Uniform attention to one key."),
    )  # fmt: skip

    def why_undefined(self, setting: Setting) -> str:
        """Return why there is no null, if there is none."""
        return why_no_null(setting)

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """Return one pass that records a few keys of each query."""
        blocks = blocks_of(setting.input)
        return (Pass(blocks.input.name, attention=frozenset(blocks.requests)),)

    def compute(self, context: Context) -> dict[str, np.ndarray]:
        record, blocks = context.record, blocks_of(context.input)
        attention, first = record.attention, blocks.first_block
        matches, null = blocks.matches, blocks.null
        return {
            "previous_token": mean_over(attention[Lag(1)], first),
            "current_token": mean_over(attention[Lag(0)], first),
            "first_token": mean_over(attention[KeyPosition(0)], first),
            "duplicate_token": _sum_over(record, matches, matches.occurrences),
            "induction": _sum_over(record, matches, matches.successors),
            "duplicate_token_null": _sum_over(record, null, null.occurrences),
            "induction_null": _sum_over(record, null, null.successors),
            "uniform_null": np.array(blocks.uniform),
        }


def why_no_null(setting: Setting, names: str = "duplicate_token_null, induction_null") -> str:
    """Return why variables that need a null are NaN, or "": matches are at too few distances."""
    if blocks_of(setting.input).null.queries.any():
        return ""
    return (
        f"{names}: NaN, because all blocks have one length, or are too short or too few of "
        "different lengths, so that an induction head cannot be distinguished from a head that "
        "attends a fixed distance back"
    )


def mean_over(
    attention: Float[Tensor, "layer sequence head query"],
    queries: Bool[np.ndarray, "sequence query"],
) -> Float[np.ndarray, "layer head"]:
    """Return the mean over the given queries of all sequences, which have that key; NaN for none.

    Other queries are left out by their position, not because they are NaN: a NaN of the model at a
    query that counts makes the mean NaN.
    """
    return _total(attention, queries) / (queries.sum() or np.nan)  # NaN instead of 0 / 0


def _sum_over(
    record: Record, asked: KeyRequests, maps: tuple[KeyMap, ...]
) -> Float[np.ndarray, "layer head"]:
    """Return the sum over each query's keys, averaged over the queries that have keys."""
    has_key = asked.keys >= 0
    layers, _, heads, _ = record.attention[Lag(0)].shape
    total = np.zeros((layers, heads))
    for of, has in zip(maps, has_key, strict=True):
        total += _total(record.attention[of], has)
    return total / (asked.queries.sum() or np.nan)


def _total(
    attention: Float[Tensor, "layer sequence head query"],
    counted: Bool[np.ndarray, "sequence query"],
) -> Float[np.ndarray, "layer head"]:
    kept = torch.from_numpy(counted).to(attention.device)[:, None]
    # `where` instead of a product with the mask, because NaN * 0 is NaN; float64, because sums are
    # over all tokens of the input.
    return torch.where(kept, attention.double(), 0).sum(dim=(1, 3)).cpu().numpy()
