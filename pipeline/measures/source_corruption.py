"""Loss after a natural repeat when the earlier occurrence of the string is corrupted."""

import numpy as np
from jaxtyping import Float

from pipeline.engine.record import Pass, Record
from pipeline.errors import InputError
from pipeline.measures.base import Context, Measure, Setting, require_kind
from pipeline.schema import Values, Variable


class SourceCorruption(Measure):
    """Increase of the loss after a repeated string when its earlier occurrence is corrupted.

    In each sequence of the input a string of `match` tokens (a parameter of the input) that
    occurred exactly once before ends at the probe, and the token after it is repeated too.

    - `loss` is the mean loss of predicting that token, in nats;
    - `earlier_cost` is the mean increase of this loss when all tokens of the earlier occurrence but
      its last one are replaced: what it is worth that more than one token matches;
    - `last_cost` is the increase when only its last token is replaced, so that a head that compares
      one token finds no match there.

    `earlier_cost_error` and `last_cost_error` are the standard errors of these means over
    sequences, std / sqrt(n) with n - 1 degrees of freedom; NaN for one sequence. The probe's own
    tokens stay as they are, and so does the token to predict: the loss by length of match, in a
    text, also depends on which strings are long. A text's last token may occur elsewhere too, so
    that an induction head has other matches of one token, in all three versions.
    """

    name = "source_corruption"
    version = 1
    default_input = "natural_matches"
    input_kind = "natural_matches"
    variables = (
        Variable("loss", ("step",), "nats", "Mean loss of the repeated token.", dtype="float64"),
        Variable("earlier_cost", ("step",), "nats",
                 "Mean increase of that loss without the earlier tokens of the source.",
                 dtype="float64"),
        Variable("earlier_cost_error", ("step",), "nats",
                 "Standard error of `earlier_cost`.", dtype="float64"),
        Variable("last_cost", ("step",), "nats",
                 "Mean increase of that loss without the last token of the source.",
                 dtype="float64"),
        Variable("last_cost_error", ("step",), "nats",
                 "Standard error of `last_cost`.", dtype="float64"),
    )  # fmt: skip

    earlier: str = "natural_matches_earlier"
    last: str = "natural_matches_last"

    @property
    def other_inputs(self) -> tuple[str, ...]:
        """The two corrupted versions."""
        return (self.earlier, self.last)

    def check(self, setting: Setting) -> None:
        """Raise InputError unless the inputs are the three versions of the same sequences."""
        clean = setting.input
        for name, replaced in ((self.earlier, "earlier"), (self.last, "last")):
            other = require_kind(self.name, setting.others[name], self.input_kind)
            same = clean.tokens.shape == other.tokens.shape and all(
                np.array_equal(clean.arrays[key], other.arrays[key]) for key in clean.arrays
            )
            found = clean.attributes["replaced"], other.attributes["replaced"]
            if not same or found != ("nothing", replaced):
                raise InputError(
                    f"measure 'source_corruption': input {name!r} is not {clean.name!r} with a "
                    f"corrupted source: give both the same settings, and this one `replaced: "
                    f"{replaced}`"
                )

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """Return a pass over each version."""
        names = (setting.input.name, self.earlier, self.last)
        return tuple(Pass(name, losses=True) for name in names)

    def compute(self, context: Context) -> Values:
        clean, earlier, last = (_at_probes(record) for record in context.records)
        return {
            "loss": clean.mean(),
            "earlier_cost": (earlier - clean).mean(),
            "earlier_cost_error": standard_error(earlier - clean),
            "last_cost": (last - clean).mean(),
            "last_cost_error": standard_error(last - clean),
        }


def _at_probes(record: Record) -> Float[np.ndarray, " sequence"]:
    loss = record.kept_loss.double().numpy()
    return loss[np.arange(len(loss)), record.input.arrays["probe"]]


def standard_error(values: Float[np.ndarray, " sequence"]) -> np.ndarray:
    """Return the standard error of the mean; NaN for a single value."""
    if len(values) < 2:
        return np.asarray(np.nan)
    return np.asarray(values.std(ddof=1) / np.sqrt(len(values)))
