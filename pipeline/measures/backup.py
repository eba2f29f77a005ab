"""Backup: the change of the direct effects of all heads when one is ablated."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.engine.record import HeadChange, Pass, Record
from pipeline.measures.base import Context, Measure, Setting
from pipeline.measures.direct_logits import counted_predictions
from pipeline.measures.subset_ablation import Heads, few_heads
from pipeline.models.assumptions import HEADS_ADD, LOGITS, STREAM, relying
from pipeline.models.circuits import Circuits
from pipeline.models.head_names import head_name
from pipeline.models.readout import Readout, head_shares, shares
from pipeline.schema import Variable

_WANG = "Wang et al. 2023, Interpretability in the Wild"
_BY_HEAD = ("step", "ablated", "layer", "head")
_ABLATED = ("step", "ablated")

Outputs = list[Float[Tensor, "prediction head d_value"]]


class Backup(Measure):
    """Change of every head's direct effect on the correct token's logit when one head is ablated.

        direct[a, l, h] = mean of (z'[l, h] - z[l, h]) W_O <direction of the correct token> * scale

    with z a head's output without ablation and z' that with head a ablated, and `scale` the factor
    of the final norm WITHOUT ablation (frozen). The direct effect of a head is its contribution to
    the correct token's logit relative to the mean of all logits (`by_head` of `direct_logits`,
    where the direction is defined). Heads that take over when another is ablated rise. Only heads
    of later layers can change: those of its own and of earlier layers are exactly 0. The entry of
    the ablated head itself is what it loses: minus its direct effect if it is ablated to zero.

    `direct_norm_free` is the same with the final norm of the changed model: z' times its scale with
    ablation, minus z times its scale without. An ablation changes the length of the stream, and
    with it the contributions of ALL heads, whether they compensate or not.

    `logit` and `logit_norm_free` are the changes of the correct token's logit itself, from the
    whole stream. In the former all parts of the model add up: where heads alone write to the
    stream, it is the sum of `direct` over all heads.

    Means over the predictions that repetition determines on repeated random tokens, over all
    predictions on other inputs. A logit softcap is left out. Ablated to "zero", or to the head's
    own "mean" over all tokens of the input without ablation. `heads` lists at most 8 heads as
    [layer, head]; without it, all of a model that has no more. The records hold the outputs of all
    later heads for each: choose an input of at most some ten thousand tokens.

    The paper freezes no norm. Everything is NaN for model families whose circuits are not defined
    (see `pipeline.models.circuits`), `direct` and `direct_norm_free` also where there is a norm
    between the heads and the stream (OLMo 2, Gemma 2 and 3).
    """

    name = "backup"
    version = 1
    default_input = "repeated"
    needs_heads = True
    variables = (
        Variable("direct", _BY_HEAD, "nats",
                 "Change of a head's direct effect without the ablated one, final norm frozen.",
                 _WANG),
        Variable("direct_norm_free", _BY_HEAD, "nats",
                 "Change of a head's direct effect without the ablated one.", _WANG),
        Variable("logit", _ABLATED, "nats",
                 "Change of the correct token's centred logit, final norm frozen."),
        Variable("logit_norm_free", _ABLATED, "nats",
                 "Change of the correct token's centred logit."),
    )  # fmt: skip
    relies_on = relying(
        direct=HEADS_ADD | LOGITS, direct_norm_free=HEADS_ADD | LOGITS,
        logit=STREAM | LOGITS, logit_norm_free=STREAM | LOGITS,
    )  # fmt: skip

    heads: Heads | None = None
    ablated_to: Literal["zero", "mean"] = "zero"

    def check(self, setting: Setting) -> None:
        """Raise InputError for heads that the model lacks, heads given twice, or too many."""
        few_heads(self.name, self.heads, setting.model)

    def coordinates(self, setting: Setting) -> dict[str, np.ndarray]:
        """Return the names of the ablated heads."""
        heads = few_heads(self.name, self.heads, setting.model)
        return {"ablated": np.array([head_name(*head) for head in heads])}

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """Return a pass without ablation, and one for each head."""
        layers = setting.model.n_layers
        heads = few_heads(self.name, self.heads, setting.model)
        return tuple(
            Pass(
                setting.input.name,
                head_outputs=tuple(range(layers)),
                hidden_states=(layers,),
                change=change,
            )
            for change in [None, *(HeadChange((head,), self.ablated_to) for head in heads)]
        )

    def compute(self, context: Context) -> dict[str, np.ndarray]:
        heads = few_heads(self.name, self.heads, context.model)
        clean, *ablated = context.records
        effects = _Effects(context.circuits, clean)
        changes = [effects.changes(*of) for of in zip(heads, ablated, strict=True)]
        return {name: np.array([of[name] for of in changes]) for name in changes[0]}


class _Effects:
    """The direct effects of a pass without change, with which those of others are compared."""

    def __init__(self, model: Circuits, clean: Record) -> None:
        self.model, self.readout = model, Readout(model)
        self.counted = torch.from_numpy(counted_predictions(clean.input))
        targets = torch.from_numpy(clean.input.tokens)[:, 1:][self.counted]
        self.directions = self.readout.directions(targets)
        self.outputs = [self._counted(clean.head_outputs[at]) for at in range(model.n_layers)]
        self.stream = self._counted(clean.hidden_states[model.n_layers])
        self.scale = self.readout.scale(self.stream)

    def changes(self, ablated: tuple[int, int], record: Record) -> dict[str, np.ndarray]:
        """Return the changes of all direct effects and of the logit, by variable."""
        outputs = self._outputs(ablated, record)
        stream = self._counted(record.hidden_states[self.model.n_layers])
        scale = self.readout.scale(stream)
        frozen = shares(stream - self.stream, self.directions, self.scale)
        free = shares(stream, self.directions, scale)
        free = free - shares(self.stream, self.directions, self.scale)
        before = self._by_head(self.outputs, self.scale)
        return {
            "direct": self._by_head(outputs, self.scale) - before,
            "direct_norm_free": self._by_head(outputs, scale) - before,
            "logit": frozen.double().mean().numpy(),
            "logit_norm_free": free.double().mean().numpy(),
        }

    def _outputs(self, ablated: tuple[int, int], record: Record) -> Outputs:
        """Return the outputs of all heads in a changed pass.

        Those that it cannot have changed are taken from the pass without change, so that rounding
        in batches of other sizes does not make them differ.
        """
        layer, head = ablated
        own = self.outputs[layer].clone()
        own[:, head] = self._counted(record.head_outputs[layer][:, :, head])
        after = range(layer + 1, self.model.n_layers)
        later = [self._counted(record.head_outputs[at]) for at in after]
        return [*self.outputs[:layer], own, *later]

    def _counted(
        self, x: Float[Tensor, "sequence position ..."]
    ) -> Float[Tensor, "prediction ..."]:
        return x[:, :-1][self.counted]

    def _by_head(
        self, outputs: Outputs, scale: Float[Tensor, " prediction"]
    ) -> Float[np.ndarray, "layer head"]:
        if self.model.heads_are_normed:
            return np.full((self.model.n_layers, self.model.n_heads), np.nan)
        effects = [
            head_shares(z, self.model.layer(at).W_O, self.directions, scale).double().mean(0)
            for at, z in enumerate(outputs)
        ]
        return torch.stack(effects).numpy()
