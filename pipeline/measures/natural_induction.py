"""Induction on the strings that a text repeats by itself: attention of heads, and losses."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from pydantic import Field

from pipeline.engine.defined import (
    defined_predictions,
    defined_queries,
    mean_over_queries,
    real_tokens,
)
from pipeline.engine.record import KeyMap, Pass
from pipeline.inputs import Input
from pipeline.inputs.natural_matches import latest_match
from pipeline.measures.base import Context, Measure, Setting
from pipeline.schema import Values, Variable

_HEAD = ("step", "layer", "head")


class NaturalInduction(Measure):
    """Attention to the token that followed the latest earlier match, and the loss there.

    A query i has a match j < i - 1 where the last `match` tokens up to j are those up to i; the
    latest one counts, whatever else it shares. Over the queries with a match,

        induction = mean of p[i, j + 1]

    `null` is the mean attention to the keys that the NEXT sequence of the input (the first, for the
    last) has at the same queries: the same distances, on other tokens. A query counts for the null
    where the token before that key is not the query's own, so that not even one token matches. A
    head that attends a fixed distance back, or far back, scores the same on both.

    Losses are in nats, of predicting the token after a query. `repeated_loss`: where the token that
    followed the match comes next again; `changed_loss`: where there is a match, and another token
    comes next; `other_loss`: without a match. A text repeats strings that are easy in themselves:
    compare checkpoints or models with each other, not these losses. In the paper the repeats are
    random tokens, which are unlike text. NaN where no query counts.
    """

    name = "natural_induction"
    version = 1
    default_input = "text"
    needs_heads = True
    variables = (
        Variable("induction", _HEAD, "1",
                 "Mean attention to the token after the latest earlier match."),
        Variable("null", _HEAD, "1",
                 "Mean attention at the same distances where nothing matches."),
        Variable("repeated_loss", ("step",), "nats",
                 "Mean loss after a match, where the same token follows again.", dtype="float64"),
        Variable("changed_loss", ("step",), "nats",
                 "Mean loss after a match, where another token follows.", dtype="float64"),
        Variable("other_loss", ("step",), "nats", "Mean loss where nothing matches.",
                 dtype="float64"),
    )  # fmt: skip

    match: int = Field(default=2, ge=1)

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """Return one pass with two keys per query, and the losses."""
        asked = probes_of(setting.input, self.match)
        keys = frozenset({asked.successor, asked.null})
        return (Pass(setting.input.name, losses=True, attention=keys),)

    def compute(self, context: Context) -> Values:
        record, made = context.record, context.input
        asked, loss = probes_of(made, self.match), record.kept_loss.double().numpy()
        scores = {
            name: mean_over_queries(record.attention[keys], defined_queries(keys, made))
            for name, keys in (("induction", asked.successor), ("null", asked.null))
        }
        masks = {
            "repeated_loss": asked.repeated,
            "changed_loss": asked.matched[:, :-1] & ~asked.repeated,
            "other_loss": ~asked.matched[:, :-1],
        }
        counted = defined_predictions(made)
        return scores | {name: _mean(loss[mask & counted]) for name, mask in masks.items()}


class Probes(NamedTuple):
    """The keys and the predictions that an input's matches give.

    successor, null: the keys of the score and of its null. matched: queries with a match. repeated:
    predictions after a match of the token that followed it before.
    """

    successor: KeyMap
    null: KeyMap
    matched: Bool[np.ndarray, "sequence query"]
    repeated: Bool[np.ndarray, "sequence prediction"]


@lru_cache(maxsize=16)
def probes_of(made: Input, match: int) -> Probes:
    """Return the probes of an input, cached: every checkpoint requests the same keys."""
    tokens, real = made.tokens, real_tokens(made)
    found = latest_match(tokens, match, real)
    matched = found >= 0
    successor = np.where(matched, found + 1, -1)
    following = np.take_along_axis(tokens, successor.clip(min=0), axis=1)
    repeated = (matched[:, :-1]) & (following[:, :-1] == tokens[:, 1:]) & real[:, 1:]
    return Probes(KeyMap(successor), KeyMap(_null(successor, made)), matched, repeated)


def _null(
    successor: Int[np.ndarray, "sequence query"], made: Input
) -> Int[np.ndarray, "sequence query"]:
    keys, real = np.roll(successor, -1, axis=0), real_tokens(made)
    before = np.take_along_axis(made.tokens, (keys - 1).clip(min=0), axis=1)
    # Padding differs between sequences: a key of the next one may be padding in this one.
    seen = np.take_along_axis(real, (keys - 1).clip(min=0), axis=1) & real
    return np.where((keys >= 0) & (before != made.tokens) & seen, keys, -1)


def _mean(values: np.ndarray) -> np.ndarray:
    """Return the mean; NaN over nothing."""
    return np.asarray(values.mean() if values.size else np.nan)
