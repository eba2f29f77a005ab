"""Loss on random tokens before and after they are repeated."""

from pipeline.engine.record import Pass
from pipeline.measures.base import Context, Measure, Setting
from pipeline.measures.blocks import blocks_of
from pipeline.measures.direct_logits import counted_predictions
from pipeline.schema import Values, Variable

_OLSSON = "Olsson et al. 2022, In-context Learning and Induction Heads"


class RepeatLoss(Measure):
    """Loss on random tokens where they are new and where they are repeated, and the difference.

        gain = first - repeated

    `first` is the mean loss of the first block's tokens from its second on, which cannot be
    predicted: at best it is the log of the number of ids that are drawn from. `repeated` is the
    mean loss from the second token of the second block on, the first that is determined by an
    earlier occurrence of the token before it. Both in nats, over all such tokens of all sequences.
    On shuffled tokens (`repeat_loss.shuffled`) the gain comes from knowing the set of tokens. NaN
    only where a loss is not finite.
    """

    name = "repeat_loss"
    version = 1
    default_input = "repeated"
    input_kind = "repeated"
    variables = (
        Variable("first", ("step",), "nats", "Mean loss of tokens that are new.", dtype="float64"),
        Variable("repeated", ("step",), "nats", "Mean loss of tokens that are repeated.", _OLSSON,
                 dtype="float64"),
        Variable("gain", ("step",), "nats",
                 "Mean loss of new tokens minus that of repeated ones.", _OLSSON, dtype="float64"),
    )  # fmt: skip

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """Return one pass that records the losses."""
        return (Pass(setting.input.name, losses=True),)

    def compute(self, context: Context) -> Values:
        record = context.record
        loss = record.kept_loss.double().numpy()
        # The loss of a token is stored at the position before it.
        first = loss[blocks_of(record.input).first_block[:, 1:]].mean()
        repeated = loss[counted_predictions(record.input)].mean()
        return {"first": first, "repeated": repeated, "gain": first - repeated}
