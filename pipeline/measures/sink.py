"""Attention sinks: attention to the first token, and the entropy of attention."""

import numpy as np
from jaxtyping import Float

from pipeline.engine.defined import defined_queries, mean_over_queries
from pipeline.engine.record import Entropy, KeyPosition, Pass, Record
from pipeline.measures.base import Context, Measure, Setting
from pipeline.schema import Variable

_HEAD = ("step", "layer", "head")
_REQUESTS = frozenset({KeyPosition(0), Entropy()})


class Sink(Measure):
    """Attention of a head to the first token (its sink), and the entropy of its attention.

        first_token = mean of p[i, 0],    entropy = mean of -sum_j p[i, j] log p[i, j]

    over sequences and over all queries but the first, which can attend to nothing else. An inactive
    head attends to the first token, with low entropy; a head without a pattern has little attention
    there and high entropy (that of uniform attention is the mean of log(i + 1),
    `uniform_entropy`). Other scores can only share the attention that the sink does not take.
    Padding does not count.

    p is the attention that the model uses. In a model with learned sinks (GPT-OSS), their part of
    the softmax goes to no key,

        p[i, j] = exp(s[i, j]) / (exp(sink) + sum_k exp(s[i, k])),

    so that a query's attention to its keys sums to less than 1. Both variables are computed from
    these p as they are, without dividing by that sum, and the sink's share is not a term of the
    entropy.

    `head_scores` also has a `first_token`, over the first block of repeated random tokens only;
    this one is over every query of any input, including text.
    """

    name = "sink"
    version = 2
    default_input = "repeated"
    needs_heads = True
    variables = (
        Variable("first_token", _HEAD, "1", "Mean attention to the first token."),
        Variable("entropy", _HEAD, "nats", "Mean entropy of a query's attention over its keys."),
        Variable("uniform_entropy", ("step",), "nats", "Mean entropy of uniform attention."),
    )

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """Return one pass that records both."""
        return (Pass(setting.input.name, attention=_REQUESTS),)

    def compute(self, context: Context) -> dict[str, np.ndarray]:
        length = context.input.tokens.shape[1]
        return {
            "first_token": mean_after_the_first(context.record, KeyPosition(0)),
            "entropy": mean_after_the_first(context.record, Entropy()),
            "uniform_entropy": np.log(np.arange(2, length + 1)).mean(),  # query i has i + 1 keys
        }


def mean_after_the_first(
    record: Record, request: KeyPosition | Entropy
) -> Float[np.ndarray, "layer head"]:
    """Return the mean over sequences and all queries but the first; padding does not count."""
    defined = defined_queries(request, record.input)
    return mean_over_queries(record.attention[request][..., 1:], defined[:, 1:])
