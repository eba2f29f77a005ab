"""Attention patterns: the whole attention of every head on a few short sequences."""

import numpy as np
from pydantic import Field

from pipeline.engine.record import Corner, Pass
from pipeline.inputs import Input
from pipeline.measures.base import Context, Measure, Setting
from pipeline.schema import Variable


class AttentionPatterns(Measure):
    """Attention of every head between all pairs of tokens of a few short sequences.

        attention[sequence, layer, head, query, key] = p[query, key]

    for the first `length` tokens of the first `sequences` sequences of the input, or as many as it
    has. p is the attention that the model uses: a query's row sums to 1, less the share of learned
    sinks in models that have them (GPT-OSS). 0 where the key comes after the query. Since a causal
    model does not look ahead, the tokens after the first `length` change nothing. NaN for queries
    that are padding. The tokens are those of the input, in the store
    (`pipeline.query.token_texts`).

    One checkpoint takes sequences x layers x heads x length^2 numbers before compression: with the
    defaults 4,608 per head, which are 18 kB as float32 and 9 kB with the option
    `float16: [attention]`, whose error for numbers of at most 1 is at most 0.00025. 384 heads are
    7.1 MB or 3.5 MB a checkpoint: select a few checkpoints (`select: {log_spaced: 6}`).

    On another input (`attention_patterns.repeated`) the same heads are seen on repeated random
    tokens, whose blocks of 25 a length of 48 shows almost twice.
    """

    name = "attention_patterns"
    version = 1
    default_input = "text"
    needs_heads = True
    variables = (
        Variable("attention", ("step", "sequence", "layer", "head", "query", "key"), "1",
                 "Attention of each query to each key, in the first tokens of a few sequences."),
    )  # fmt: skip

    sequences: int = Field(2, ge=1)
    length: int = Field(48, ge=1)

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """Return one pass that records the attention among the first tokens."""
        return (Pass(setting.input.name, attention=frozenset({self._request(setting.input)})),)

    def coordinates(self, setting: Setting) -> dict[str, np.ndarray]:
        """Return the sequences of the input that are recorded, and the positions in them."""
        request = self._request(setting.input)
        positions = np.arange(request.length)
        return {"sequence": np.arange(request.sequences), "query": positions, "key": positions}

    def compute(self, context: Context) -> dict[str, np.ndarray]:
        request = self._request(context.input)
        of = context.record.attention[request].float().numpy()
        matrices = of.reshape(*of.shape[:3], request.length, request.length)
        return {"attention": matrices.transpose(1, 0, 2, 3, 4)}

    def _request(self, made: Input) -> Corner:
        sequences, length = made.tokens.shape
        return Corner(min(self.sequences, sequences), min(self.length, length))
