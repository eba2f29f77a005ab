"""Lag profile: mean attention of a head at every distance back."""

import numpy as np
from pydantic import Field

from pipeline.engine.record import LagMeans, Pass
from pipeline.inputs import Input
from pipeline.measures.base import Context, Measure, Setting
from pipeline.schema import Variable

_OLSSON = "Olsson et al. 2022, In-context Learning and Induction Heads"


class LagProfile(Measure):
    """Mean attention to the key `lag` positions before the query, for each head.

        profile[lag] = mean of p[i, i - lag] over sequences and over queries i = lag .. T-1

    for lag = 0 .. max_lag, or as far as the sequences reach. On random tokens in blocks of n,
    repeated, a previous-token head has its stripe at lag 1, an induction head at n - 1, a
    duplicate-token head at n; where the sequences' blocks have different lengths n, at each of
    them (`lag_profile.repeated_4x25` has one n). With all lags, sum_lag (T - lag) / T profile[lag]
    = 1, because a query's attention sums to 1. A sequence with padding has fewer queries. On text
    (`lag_profile.text`) the profile shows the same stripes for natural tokens.
    """

    name = "lag_profile"
    version = 1
    default_input = "repeated"
    needs_heads = True
    variables = (
        Variable("profile", ("step", "layer", "head", "lag"), "1",
                 "Mean attention to the key at each distance before the query.", _OLSSON),
    )  # fmt: skip

    max_lag: int = Field(255, ge=0)

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """Return one pass whose attention is averaged along its diagonals."""
        return (Pass(setting.input.name, attention=frozenset({self._request(setting.input)})),)

    def coordinates(self, setting: Setting) -> dict[str, np.ndarray]:
        """Return the lags, from 0."""
        return {"lag": np.arange(self._request(setting.input).n_lags)}

    def compute(self, context: Context) -> dict[str, np.ndarray]:
        by_sequence = context.record.attention[self._request(context.input)]
        return {"profile": by_sequence.double().mean(dim=1).numpy()}

    def _request(self, made: Input) -> LagMeans:
        return LagMeans(min(self.max_lag + 1, made.tokens.shape[1]))
