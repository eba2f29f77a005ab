"""Heads that attend to the most recent full stop."""

import numpy as np
from jaxtyping import Bool, Int

from pipeline.engine.defined import defined_queries, mean_over_queries
from pipeline.engine.record import AttentionRequest, KeyMap, Pass
from pipeline.errors import InputError
from pipeline.inputs import Input
from pipeline.measures.base import Context, Measure, Setting
from pipeline.schema import Variable

_HEAD = ("step", "layer", "head")


class FullStop(Measure):
    """Attention to the most recent full stop, compared with keys at the same distances.

    `most_recent` is the mean of p[i, j] with j the last full stop before query i, over all queries
    that have one. `null` is the same mean for the keys that the NEXT sequence of the input (the
    first, for the last) has at the same queries: the same distances, on other tokens. A query
    counts for the null where that key is not a full stop. A head that merely attends far back, or
    near, scores the same on both.

    A text input gets the ids of full stops ("." alone, with or without a space before it) from its
    tokenizer; for inputs of ids made elsewhere, give `token_ids`. NaN where no query has a full
    stop before it.
    """

    name = "full_stop"
    version = 2
    default_input = "text"
    needs_heads = True
    variables = (
        Variable("most_recent", _HEAD, "1", "Mean attention to the last full stop before a query."),
        Variable("null", _HEAD, "1",
                 "Mean attention to keys at the same distances that are no full stops."),
    )  # fmt: skip

    token_ids: tuple[int, ...] = ()

    def check(self, setting: Setting) -> None:
        """Raise InputError for inputs whose full stops are not known."""
        if not self._ids(setting.input):
            raise InputError(
                f"measure 'full_stop': input {setting.input.name!r} does not say which token ids "
                "are full stops (the tokenizer has none, or the ids were made elsewhere): "
                "give `token_ids`"
            )

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """Return one pass that records one key per query, and one more for the null."""
        requests: frozenset[AttentionRequest] = frozenset(self._requests(setting.input))
        return (Pass(setting.input.name, attention=requests),)

    def compute(self, context: Context) -> dict[str, np.ndarray]:
        record = context.record
        names = ("most_recent", "null")
        return {
            name: mean_over_queries(
                record.attention[request], defined_queries(request, record.input)
            )
            for name, request in zip(names, self._requests(record.input), strict=True)
        }

    def _ids(self, made: Input) -> tuple[int, ...]:
        return self.token_ids or tuple(made.attributes.get("full_stop_ids", ()))

    def _requests(self, made: Input) -> tuple[KeyMap, KeyMap]:
        is_stop = np.isin(made.tokens, self._ids(made))
        keys = last_before(is_stop)
        # The next sequence's keys, at the same queries: same distances, unrelated tokens.
        elsewhere = np.roll(keys, -1, axis=0)
        on_a_stop = np.take_along_axis(is_stop, elsewhere.clip(min=0), axis=1)
        return KeyMap(keys), KeyMap(np.where(on_a_stop, -1, elsewhere))


def last_before(
    marked: Bool[np.ndarray, "sequence position"],
) -> Int[np.ndarray, "sequence position"]:
    """Return for each position the last marked one strictly before it; -1 where there is none."""
    positions = np.where(marked, np.arange(marked.shape[1]), -1)
    last = np.maximum.accumulate(positions, axis=1)
    # Shifted by one, so that a marked position is not its own last one.
    return np.concatenate([np.full((len(marked), 1), -1), last[:, :-1]], axis=1)
