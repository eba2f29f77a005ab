"""How long the residual stream is, block after block."""

import numpy as np

from pipeline.engine.record import Pass
from pipeline.measures.base import Context, Measure, Setting
from pipeline.schema import Variable


class ResidualNorm(Measure):
    """Mean length of the residual stream where it enters each block, and where it leaves the last.

        norm[k] = mean over tokens of |x_k|,    x_k: the stream after k blocks, before any norm

    k = 0 is the embedding (with positions where they are added to it). The first token of a
    sequence is left out, where many models keep an outlier that attention can rest on;
    `first_token` is the mean for that token alone. NaN nowhere; padding does not count.
    """

    name = "residual_norm"
    version = 1
    default_input = "repeated"
    variables = (
        Variable("norm", ("step", "depth"), "1",
                 "Mean length of the residual stream, but for the first token's."),
        Variable("first_token", ("step", "depth"), "1", "Mean length at the first token."),
    )  # fmt: skip

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """One pass that keeps the stream."""
        depths = tuple(range(setting.model.n_layers + 1))
        return (Pass(setting.input.name, hidden_states=depths),)

    def compute(self, context: Context) -> dict[str, np.ndarray]:
        made, states = context.input, context.record.hidden_states
        mask = made.arrays.get("attention_mask", np.ones_like(made.tokens)).astype(bool)
        lengths = [states[k].double().norm(dim=-1).numpy() for k in range(len(states))]
        return {
            "norm": np.array([of[:, 1:][mask[:, 1:]].mean() for of in lengths]),
            "first_token": np.array([of[:, 0][mask[:, 0]].mean() for of in lengths]),
        }
