"""Attention and loss by the length of a match, from exact to fuzzy induction."""

import numpy as np
from jaxtyping import Float, Int

from pipeline.engine.record import KeyMap, Pass
from pipeline.inputs import Input
from pipeline.measures.base import Context, Measure, Setting
from pipeline.schema import Values, Variable

_HEAD = ("step", "layer", "head")
_BY_LENGTH = (*_HEAD, "match_length")


class FuzzyInduction(Measure):
    """Attention to the successor of an earlier match, and the loss on it, by length of the match.

    Input: random tokens in which the last m tokens up to a probe, and no more, occurred before
    (m = 1 .. longest), followed by the same successor as before. Over the probes of match length m,

    - `attention[m]` is the mean attention from the probe to that earlier successor;
    - `null[m]` is the mean attention to the successor of another string, which matches nothing;
    - `loss[m]` is the mean loss, in nats, of predicting the successor.

    An induction head that compares one token has the same attention for all m; one that compares
    several has a slope. `slope` and `loss_slope` are those of the least-squares line through the
    values for m = 1 .. longest, per matched token.
    """

    name = "fuzzy_induction"
    version = 1
    default_input = "matches"
    input_kind = "matches"
    needs_heads = True
    variables = (
        Variable("attention", _BY_LENGTH, "1",
                 "Mean attention to the successor of the earlier match."),
        Variable("null", _BY_LENGTH, "1",
                 "Mean attention to the successor of a string that does not match."),
        Variable("slope", _HEAD, "1", "Increase of that attention per matched token."),
        Variable("loss", ("step", "match_length"), "nats",
                 "Mean loss of the successor after a match."),
        Variable("loss_slope", ("step",), "nats", "Increase of that loss per matched token."),
    )  # fmt: skip

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """Return one pass with two keys per probe, and the losses."""
        made = setting.input
        return (Pass(made.name, losses=True, attention=frozenset(_requests(made))),)

    def coordinates(self, setting: Setting) -> dict[str, np.ndarray]:
        """Return the match lengths, from 1."""
        return {"match_length": _lengths(setting.input)}

    def compute(self, context: Context) -> Values:
        record, made = context.record, context.input
        matching, other = _requests(made)
        attention = _by_length(record.attention[matching].double().numpy(), made)
        null = _by_length(record.attention[other].double().numpy(), made)
        # The last position predicts nothing; it is never a probe.
        loss = _by_length(np.pad(record.kept_loss.double().numpy(), ((0, 0), (0, 1))), made)
        lengths = _lengths(made)
        return {
            "attention": attention,
            "null": null,
            "slope": slope(lengths, attention),
            "loss": loss,
            "loss_slope": slope(lengths, loss),
        }


def _requests(made: Input) -> tuple[KeyMap, KeyMap]:
    return KeyMap(made.arrays["successor"]), KeyMap(made.arrays["other"])


def _lengths(made: Input) -> Int[np.ndarray, " point"]:
    return np.arange(1, int(made.attributes["longest"]) + 1)


def _by_length(
    values: Float[np.ndarray, "*others position"], made: Input
) -> Float[np.ndarray, "*heads point"]:
    """Return the means over the probes of each match length.

    There may be axes between sequence and position, as in a record's attention.
    """
    # A record's attention is [layer, sequence, head, query]; losses are [sequence, position].
    by_position = np.moveaxis(values, -3, 0) if values.ndim == 4 else values
    means = []
    for length in _lengths(made):
        sequence, position = np.nonzero(made.arrays["length"] == length)
        means.append(by_position[sequence, ..., position].mean(axis=0))
    return np.stack(means, axis=-1)


def slope(
    x: Int[np.ndarray, " point"], y: Float[np.ndarray, "*heads point"]
) -> Float[np.ndarray, "*heads"] | np.floating:
    """Return b of the least-squares line y = a + b x."""
    centred = x - x.mean()
    return y @ centred / (centred**2).sum()
