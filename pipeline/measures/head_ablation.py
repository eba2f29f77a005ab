"""Zero ablation of single heads, and of several together: the increase of the loss."""

from itertools import product
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.engine.defined import defined_predictions
from pipeline.engine.record import HeadChange, Kept, Pass, Record
from pipeline.errors import InputError
from pipeline.measures.base import Context, Measure, Setting
from pipeline.measures.direct_logits import counted_predictions
from pipeline.measures.token_loss import (
    EARLY_TOKEN,
    LATE_TOKEN,
    mean_by_position,
    refuse_tokens_beyond,
)
from pipeline.models.facts import ModelFacts
from pipeline.schema import Variable

_OLSSON = "Olsson et al. 2022, In-context Learning and Induction Heads"
_HEAD = ("step", "layer", "head")


class HeadAblation(Measure):
    """Increase of the loss when one head's output (before W_O) is set to zero.

        loss[l, h] = mean loss with head h of layer l at zero - mean loss without ablation

    `repeated_loss` is the same over the predictions that repetition determines, on repeated random
    tokens: the head's contribution to the gain from repetition. `in_context_score` is the increase
    of the loss at token `late_token` minus that at token `early_token`: the head's contribution to
    the in-context learning score of `token_loss`. The defaults are the paper's 500 and 50 if the
    sequences are long enough; given tokens beyond the sequences are refused. Later layers run on
    the changed stream, so that these are total effects: heads that compensate for the ablated one
    make them smaller.

    `heads` lists the heads to ablate as [layer, head]; without it, all are. `together_loss` and
    `together_repeated_loss` are the increases when all of `heads` are ablated at once, which also
    shows the joint effect of heads that compensate for each other.

    Each head costs a forward pass from its layer on. Padding does not count. NaN for heads that
    were not ablated, for `together_loss` where `heads` is not given, for `repeated_loss` on inputs
    of another kind, and for `in_context_score` on sequences that do not reach token 500, unless
    other tokens are given.
    """

    name = "head_ablation"
    version = 3
    default_input = "repeated"
    needs_heads = True
    variables = (
        Variable("loss", _HEAD, "nats", "Increase of the mean loss without the head.", _OLSSON),
        Variable("repeated_loss", _HEAD, "nats",
                 "Increase of the mean loss of repeated tokens without the head.", _OLSSON),
        Variable("in_context_score", _HEAD, "nats",
                 "Increase of the in-context learning score without the head.", _OLSSON),
        Variable("together_loss", ("step",), "nats",
                 "Increase of the mean loss without all the named heads."),
        Variable("together_repeated_loss", ("step",), "nats",
                 "Increase of the mean loss of repeated tokens without all the named heads."),
    )  # fmt: skip

    ablated_to: ClassVar[Literal["zero", "mean"]] = "zero"
    kept: ClassVar[frozenset[Kept]] = frozenset()

    heads: tuple[tuple[int, int], ...] | None = Field(None, min_length=1)
    early_token: int | None = Field(None, ge=1)
    late_token: int | None = Field(None, ge=2)

    def check(self, setting: Setting) -> None:
        """Raise InputError for heads that the model lacks, or tokens beyond the sequences."""
        refuse_absent(self.name, self.heads or (), setting.model)
        if self.early_token is not None or self.late_token is not None:
            refuse_tokens_beyond(self.name, setting, *self._compared)

    def why_undefined(self, setting: Setting) -> str:
        """Return which variables are undefined on this input or with these parameters, and why."""
        made, (early, late) = setting.input, self._compared
        reasons = []
        if late >= made.tokens.shape[1]:
            reasons.append(
                f"in_context_score: NaN, because it compares tokens {early} and {late} unless "
                "`early_token` and `late_token` are given, and the sequences of input "
                f"{made.name!r} have {made.tokens.shape[1]} tokens"
            )
        repeats = made.kind == "repeated"
        without_repeats = f"input {made.name!r} has no repeated random tokens"
        if not repeats:
            reasons.append(f"repeated_loss: NaN, because {without_repeats}")
        if not self.heads:
            reasons.append(
                "together_loss, together_repeated_loss: NaN, because `heads` is not given"
            )
        elif not repeats:
            reasons.append(f"together_repeated_loss: NaN, because {without_repeats}")
        return "; ".join(reasons)

    @property
    def _compared(self) -> tuple[int, int]:
        """The early and the late token: the given ones, or the paper's."""
        early = EARLY_TOKEN if self.early_token is None else self.early_token
        return early, LATE_TOKEN if self.late_token is None else self.late_token

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """Return a pass without ablation, one for each head, and one for all of `heads`."""
        chosen = [(one,) for one in chosen_heads(self.heads, setting.model)]
        ablated = [
            HeadChange(heads, self.ablated_to, self.kept)
            for heads in [*chosen, *([self.heads] if self.heads else [])]
        ]
        # `compute` relies on the order: without change first, all together last.
        name = setting.input.name
        return tuple(Pass(name, losses=True, change=change) for change in [None, *ablated])

    def compute(self, context: Context) -> dict[str, np.ndarray]:
        shape = context.model.n_layers, context.model.n_heads
        clean, *ablated = [self._losses(record) for record in context.records]
        effects = {name: np.full(shape, np.nan) for name in clean}
        chosen = chosen_heads(self.heads, context.model)
        for where, losses in zip(chosen, ablated[: len(chosen)], strict=True):
            for name, value in losses.items():
                effects[name][where] = value - clean[name]
        # Without `heads` all are ablated one by one, and there is no pass for all of them.
        together = ablated[-1] if self.heads else dict.fromkeys(clean, np.nan)
        for name in ("loss", "repeated_loss"):
            effects[f"together_{name}"] = np.array(together[name] - clean[name])
        return effects

    def _losses(self, record: Record) -> dict[str, float]:
        made, (early, late) = record.input, self._compared
        by_position = mean_by_position(record.kept_loss.double().numpy(), defined_predictions(made))
        reaches = late <= len(by_position)
        score = by_position[late - 1] - by_position[early - 1] if reaches else np.nan
        return {**mean_losses(record), "in_context_score": score}


def mean_losses(record: Record) -> dict[str, float]:
    """Return the mean loss, and that of repeated tokens: NaN on inputs of another kind."""
    loss, made = record.kept_loss.double().numpy(), record.input
    is_repeated = made.kind == "repeated"
    repeated = loss[counted_predictions(made)].mean() if is_repeated else np.nan
    return {
        "loss": float(loss[defined_predictions(made)].mean()),
        "repeated_loss": float(repeated),
    }


def chosen_heads(
    heads: tuple[tuple[int, int], ...] | None, model: ModelFacts
) -> tuple[tuple[int, int], ...]:
    """Return the named heads, or all (layer, head) of a model's layers that attend."""
    if heads is not None:
        return heads
    return tuple(product(model.attention_layers, range(model.n_heads)))


def refuse_absent(measure: str, heads: tuple[tuple[int, int], ...], model: ModelFacts) -> None:
    """Raise InputError for a head that a model does not have."""
    for layer, head in heads:
        if not (0 <= layer < model.n_layers and 0 <= head < model.n_heads):
            raise InputError(
                f"measure {measure!r}: there is no head [{layer}, {head}], since the model has "
                f"{model.n_layers} layers of {model.n_heads} heads, counted from 0: "
                "correct `heads`"
            )
        if layer in model.without_attention:
            attending = ", ".join(map(str, model.attention_layers))
            raise InputError(
                f"measure {measure!r}: there is no head [{layer}, {head}], since of the model's "
                f"layers only {attending} attend: correct `heads`"
            )
