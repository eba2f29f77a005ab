"""What is lost when a head's output is taken away."""

from itertools import product

import numpy as np
from pydantic import Field

from pipeline.errors import InputError
from pipeline.measures.base import Measure, Reference, Setting
from pipeline.measures.direct_logits import counted_predictions
from pipeline.models.loading import ModelFacts, ModelWeights
from pipeline.record import Pass, Record
from pipeline.schema import Variable

_OLSSON = "Olsson et al. 2022, In-context Learning and Induction Heads"
_HEAD = ("step", "layer", "head")


class HeadAblation(Measure):
    """Increase of the loss when one head's output (before W_O) is set to zero.

        loss[l, h] = mean loss with head h of layer l at zero - mean loss without ablation

    `repeated_loss` is the same over the predictions that repetition decides, on repeated random
    tokens: what the head contributes to the gain of the second half. `in_context_score` is the
    increase of the loss at token `late_token` minus that at token `early_token`: the head's part
    in the in-context learning score of `token_loss`. Later layers compute on with what is left, so
    that these are total effects: heads that step in for the ablated one make them smaller.

    Each head costs a forward pass. `heads` names those to ablate as [layer, head]; without it, all
    are. NaN for heads that were not ablated, `repeated_loss` on inputs of another kind, and
    `in_context_score` on sequences that do not reach `late_token`.
    """

    name = "head_ablation"
    version = 1
    default_input = "repeated"
    variables = (
        Variable("loss", _HEAD, "nats", "Increase of the mean loss without the head.", _OLSSON),
        Variable("repeated_loss", _HEAD, "nats",
                 "Increase of the mean loss of repeated tokens without the head.", _OLSSON),
        Variable("in_context_score", _HEAD, "nats",
                 "Increase of the in-context learning score without the head.", _OLSSON),
    )  # fmt: skip

    heads: tuple[tuple[int, int], ...] | None = None
    early_token: int = Field(50, ge=1)
    late_token: int = Field(500, ge=2)

    def check(self, setting: Setting) -> None:
        """Refuse heads that the model does not have."""
        layers, heads = setting.model.n_layers, setting.model.n_heads
        for layer, head in self.heads or ():
            if not (0 <= layer < layers and 0 <= head < heads):
                raise InputError(
                    f"measure 'head_ablation': there is no head [{layer}, {head}], since the model "
                    f"has {layers} layers of {heads} heads, counted from 0: correct `heads`"
                )

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """One without ablation, and one for each head."""
        assert setting.input is not None
        name = setting.input.name
        ablated = (
            Pass(name, losses=True, head_scale=((layer, head, 0.0),))
            for layer, head in self._chosen(setting.model)
        )
        return (Pass(name, losses=True), *ablated)

    def compute(
        self, records: tuple[Record, ...], weights: ModelWeights, reference: Reference | None
    ) -> dict[str, np.ndarray]:
        """See the class."""
        shape = weights.facts.n_layers, weights.facts.n_heads
        effects = {variable.name: np.full(shape, np.nan) for variable in self.variables}
        clean = self._losses(records[0])
        chosen = self._chosen(weights.facts)
        for (layer, head), record in zip(chosen, records[1:], strict=True):
            for name, value in self._losses(record).items():
                effects[name][layer, head] = value - clean[name]
        return effects

    def _chosen(self, model: ModelFacts) -> tuple[tuple[int, int], ...]:
        if self.heads is not None:
            return self.heads
        return tuple(product(range(model.n_layers), range(model.n_heads)))

    def _losses(self, record: Record) -> dict[str, float]:
        assert record.loss is not None
        loss, made = record.loss.double().numpy(), record.input
        is_repeated, reaches = made.kind == "repeated", self.late_token <= loss.shape[1]
        late_minus_early = (
            np.nanmean(loss[:, self.late_token - 1]) - np.nanmean(loss[:, self.early_token - 1])
            if reaches
            else np.nan
        )
        repeated = loss[counted_predictions(made)].mean() if is_repeated else np.nan
        return {
            "loss": float(np.nanmean(loss)),
            "repeated_loss": float(repeated),
            "in_context_score": float(late_minus_early),
        }
