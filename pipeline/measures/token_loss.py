"""Per-token loss, and the in-context learning score."""

import numpy as np
from jaxtyping import Bool, Float
from pydantic import Field

from pipeline.engine.defined import defined_predictions
from pipeline.engine.record import Pass
from pipeline.errors import InputError
from pipeline.measures.base import Context, Measure, Setting
from pipeline.schema import Values, Variable

_OLSSON = "Olsson et al. 2022, In-context Learning and Induction Heads"

# The tokens of the paper's in-context learning score.
EARLY_TOKEN, LATE_TOKEN = 50, 500


class TokenLoss(Measure):
    """Cross-entropy of every token given the tokens before it, on fixed sequences.

        loss[s, t] = -log p(x[s, t+1] | x[s, 0..t])   in nats, t = 0 .. T-2

    Position t is the loss of predicting token t+1, so "the loss at token 500" is position 499.
    Tokens are those of the sequence, counted from 0, with BOS among them: where the sequences of
    an input begin with BOS, it is token 0, and position 0 is the loss of the text's first token,
    given BOS alone. Without BOS the first token of a text is token 0, of which there is no loss.

    `mean_by_position` averages over sequences; `mean` over all predictions;
    `in_context_score` is the mean over sequences of the loss at token `late_token` minus the loss
    at token `early_token`: more negative is more in-context learning. Sums are taken in float64.
    Padding, where `loss` is NaN, does not count.

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

    early_token: int = Field(default=EARLY_TOKEN, ge=1)
    late_token: int = Field(default=LATE_TOKEN, ge=2)

    def check(self, setting: Setting) -> None:
        """Raise InputError for sequences on which the in-context score is not defined."""
        refuse_tokens_beyond(self.name, setting, self.early_token, self.late_token)

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """Return one pass that records the losses."""
        return (Pass(setting.input.name, losses=True),)

    def compute(self, context: Context) -> Values:
        loss = context.record.kept_loss.float().numpy()  # the dtype of the store
        defined = defined_predictions(context.input)
        by_position = mean_by_position(loss, defined)
        return {
            "loss": loss,
            "mean_by_position": by_position,
            "mean": loss[defined].mean(dtype=np.float64),
            "in_context_score": by_position[self.late_token - 1]
            - by_position[self.early_token - 1],
        }


def mean_by_position(
    loss: Float[np.ndarray, "sequence prediction"], defined: Bool[np.ndarray, "sequence prediction"]
) -> Float[np.ndarray, " prediction"]:
    """Return the mean over sequences, in float64; NaN for positions that are padding in all."""
    total = loss.sum(axis=0, dtype=np.float64, where=defined)
    with np.errstate(invalid="ignore"):
        return total / defined.sum(axis=0)


def refuse_tokens_beyond(measure: str, setting: Setting, early: int, late: int) -> None:
    """Raise InputError unless the sequences reach the tokens that the in-context score compares."""
    length = setting.input.tokens.shape[1]
    if not early < late < length:
        raise InputError(
            f"measure {measure!r}: the in-context score compares tokens {early} "
            f"and {late}, but the sequences of input {setting.input.name!r} have "
            f"{length} tokens (0 to {length - 1}): set `early_token` and `late_token`"
        )
