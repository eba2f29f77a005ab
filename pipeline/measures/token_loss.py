"""Per-token loss, and the in-context learning score that is read off it."""

import numpy as np
from pydantic import Field

from pipeline.engine.record import Pass, Record
from pipeline.errors import InputError
from pipeline.measures.base import Measure, Reference, Setting
from pipeline.models.loading import Weights
from pipeline.schema import Variable

_OLSSON = "Olsson et al. 2022, In-context Learning and Induction Heads"


class TokenLoss(Measure):
    """Cross-entropy of every token given the tokens before it, on fixed sequences.

        loss[s, t] = -log p(x[s, t+1] | x[s, 0..t])   in nats, t = 0 .. T-2

    Position t is the loss of predicting token t+1, so "the loss at token 500" is position 499.
    `mean_by_position` averages over sequences; `mean` over all predictions;
    `in_context_score` is the mean over sequences of the loss at token `late_token` minus the loss
    at token `early_token`: more negative is more in-context learning. Sums are taken in float64.

    The paper's tokens are 500 and 50. On sequences that do not reach `late_token` the measure is
    refused rather than computed on other tokens under the same name.
    """

    name = "token_loss"
    version = 1
    default_input = "text"
    variables = (
        Variable("loss", ("step", "sequence", "position"), "nats",
                 "Cross-entropy of the token after each position."),
        Variable("mean_by_position", ("step", "position"), "nats",
                 "Loss at each position, averaged over sequences."),
        Variable("mean", ("step",), "nats", "Loss averaged over all predictions.", dtype="float64"),
        Variable("in_context_score", ("step",), "nats",
                 "Mean loss at the late token minus mean loss at the early token.", _OLSSON,
                 dtype="float64"),
    )  # fmt: skip

    early_token: int = Field(default=50, ge=1)
    late_token: int = Field(default=500, ge=2)

    def check(self, setting: Setting) -> None:
        """Refuse sequences on which the in-context score is not defined."""
        assert setting.input is not None
        length = setting.input.tokens.shape[1]
        if not self.early_token < self.late_token < length:
            raise InputError(
                f"measure 'token_loss': the in-context score compares tokens {self.early_token} "
                f"and {self.late_token}, but the sequences of input {setting.input.name!r} have "
                f"{length} tokens (0 to {length - 1}): set `early_token` and `late_token`"
            )

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """One pass that keeps the losses."""
        assert setting.input is not None
        return (Pass(setting.input.name, losses=True),)

    def compute(
        self, records: tuple[Record, ...], weights: Weights, reference: Reference | None
    ) -> dict[str, np.ndarray]:
        """See the class."""
        assert records[0].loss is not None
        loss = records[0].loss.float().numpy()
        by_position = loss.mean(axis=0, dtype=np.float64)
        return {
            "loss": loss,
            "mean_by_position": by_position,
            "mean": loss.mean(dtype=np.float64),
            "in_context_score": by_position[self.late_token - 1]
            - by_position[self.early_token - 1],
        }
