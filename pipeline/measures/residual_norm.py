"""Norm of the residual stream after each block."""

import numpy as np

from pipeline.engine.record import Pass
from pipeline.measures.base import Context, Measure, Setting
from pipeline.schema import Variable


class ResidualNorm(Measure):
    """Mean norm of the residual stream at the input of each block, and after the last one.

        norm[k] = mean over tokens of |x_k|,    x_k: the stream after k blocks, before any norm

    k = 0 is the embedding (with positions where they are added to it). The first token of a
    sequence is left out, because many models have an outlier there that serves as an attention
    sink; `first_token` is the mean for that token alone. Never NaN; padding does not count.
    """

    name = "residual_norm"
    version = 1
    default_input = "repeated"
    variables = (
        Variable("norm", ("step", "depth"), "1",
                 "Mean norm of the residual stream, without the first token."),
        Variable("first_token", ("step", "depth"), "1", "Mean norm at the first token."),
    )  # fmt: skip

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """Return one pass that records the stream at every depth."""
        depths = tuple(range(setting.model.n_layers + 1))
        return (Pass(setting.input.name, hidden_states=depths),)

    def compute(self, context: Context) -> dict[str, np.ndarray]:
        made, states = context.input, context.record.hidden_states
        mask = made.arrays.get("attention_mask", np.ones_like(made.tokens)).astype(bool)
        # In float64: the squares of outliers are far from those of other dimensions.
        lengths = [states[k].double().norm(dim=-1).numpy() for k in range(len(states))]
        return {
            "norm": np.array([of[:, 1:][mask[:, 1:]].mean() for of in lengths]),
            "first_token": np.array([of[:, 0][mask[:, 0]].mean() for of in lengths]),
        }
