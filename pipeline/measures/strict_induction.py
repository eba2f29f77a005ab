"""Loss on repeats when heads contribute only what they read where induction looks."""

from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int
from pydantic import Field
from torch import Tensor

from pipeline.engine.record import HeadChange, Pass, ReadFrom, Record
from pipeline.errors import InputError
from pipeline.inputs import Input
from pipeline.measures.base import Context, Measure, Setting
from pipeline.measures.direct_logits import counted_predictions
from pipeline.measures.head_ablation import refuse_absent
from pipeline.measures.natural_induction import probes_of
from pipeline.models.facts import ModelFacts
from pipeline.schema import Values, Variable

_REDWOOD = "Goldowsky-Dill et al. 2022, Causal scrubbing: results on induction heads"
_NATURAL_MATCH = 2  # tokens


@dataclass(frozen=True)
class AfterMatch:
    """Keys right after a token that equals the query's, or after one of the tokens before it.

    Query i may read from key j if tokens[j - 1 - k] = tokens[i - k] for some k < within.
    """

    within: int = 1

    def allowed(
        self, tokens: Int[Tensor, "batch position"], queries: range, keys: range
    ) -> Bool[Tensor, "batch query key"]:
        """Return a mask of the allowed pairs."""
        found = torch.zeros(len(tokens), len(queries), len(keys), dtype=torch.bool)
        found = found.to(tokens.device)
        for k in range(self.within):
            # Before the first token there is nothing that matches; padding is negative too.
            own = _shifted(tokens, queries, k)[:, :, None]
            found |= (own == _shifted(tokens, keys, k + 1)[:, None]) & (own >= 0)
        return found


def _shifted(
    tokens: Int[Tensor, "batch position"], positions: range, back: int
) -> Int[Tensor, "batch chosen"]:
    index = torch.arange(positions.start, positions.stop, device=tokens.device) - back
    return tokens[:, index.clamp(min=0)].where(index >= 0, -1)


class StrictInduction(Measure):
    """Loss on repeats when heads contribute only what they read where induction looks.

    Strict induction reads, from query i, the keys right after earlier occurrences of its token:
    j <= i with tokens[j - 1] = tokens[i]. Fuzzy induction also reads keys before which one of the
    last `window` tokens matches at the same distance: tokens[j - 1 - k] = tokens[i - k] for some
    k < window. Each of `heads` (layer, head) outputs only

        sum of p[i, j] v[j] over these j  +  the rest, replaced

    before W_O, with p of its whole softmax. `replaced_by` "mean": the rest, the sum over all other
    keys, is replaced by its mean over all tokens of the input at this checkpoint; "zero": by zero.
    `ablated_loss` has the whole output of `heads` replaced in the same way, all at once.

        share = (ablated_loss - restricted loss) / (ablated_loss - clean_loss)

    1: all that the heads gain is read where induction looks; 0: nothing of it is. Until the heads
    gain anything the share is noise; NaN where ablating them does not change the loss.

    Losses are in nats: on repeated random tokens, over the predictions that repetition determines;
    on other inputs, over those that follow a match of two tokens or more and that are what followed
    it (see `natural_induction`); NaN without any. By default `heads` are all those above the first
    layer: an induction head reads what a previous-token head below it has written.

    The source rewrites a model into paths and replaces what a hypothesis leaves out by what it is
    on other inputs. Here the attention of the heads is their own, and what their keys, queries and
    values are made of is not restricted.
    """

    name = "strict_induction"
    version = 1
    default_input = "repeated"
    needs_heads = True
    variables = (
        Variable("clean_loss", ("step",), "nats", "Mean loss on repeats.", dtype="float64"),
        Variable("ablated_loss", ("step",), "nats", "Mean loss on repeats without the heads.",
                 dtype="float64"),
        Variable("strict_loss", ("step",), "nats",
                 "Mean loss on repeats with what the heads read by strict induction.",
                 dtype="float64"),
        Variable("fuzzy_loss", ("step",), "nats",
                 "Mean loss on repeats with what the heads read by strict or fuzzy induction.",
                 dtype="float64"),
        Variable("strict_share", ("step",), "1",
                 "Share of the loss that the heads gain which strict induction keeps.", _REDWOOD,
                 dtype="float64"),
        Variable("fuzzy_share", ("step",), "1",
                 "Share of the loss that the heads gain which strict or fuzzy induction keeps.",
                 dtype="float64"),
    )  # fmt: skip

    heads: tuple[tuple[int, int], ...] | None = Field(None, min_length=1)
    replaced_by: Literal["mean", "zero"] = "mean"
    window: int = Field(default=3, ge=1)

    def check(self, setting: Setting) -> None:
        """Raise InputError for heads that the model lacks, or where there are none by default."""
        refuse_absent(self.name, self.heads or (), setting.model)
        if not self._heads(setting.model):
            raise InputError(
                f"measure {self.name!r}: the model has no layer above its first: give `heads`"
            )

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """Return a pass without change, one without the heads, and one for each rule."""
        rules = (AfterMatch(1), AfterMatch(self.window))
        to = (self.replaced_by, *(ReadFrom(rule, self.replaced_by) for rule in rules))
        heads = self._heads(setting.model)
        changes = (None, *(HeadChange(heads, one) for one in to))
        return tuple(Pass(setting.input.name, losses=True, change=one) for one in changes)

    def compute(self, context: Context) -> Values:
        counted = counted_repeats(context.input)
        clean, ablated, strict, fuzzy = (_mean(one, counted) for one in context.records)
        return {
            "clean_loss": clean,
            "ablated_loss": ablated,
            "strict_loss": strict,
            "fuzzy_loss": fuzzy,
            "strict_share": share(ablated, strict, clean),
            "fuzzy_share": share(ablated, fuzzy, clean),
        }

    def _heads(self, model: ModelFacts) -> tuple[tuple[int, int], ...]:
        if self.heads is not None:
            return self.heads
        later = [layer for layer in model.attention_layers if layer > 0]
        return tuple(product(later, range(model.n_heads)))


def counted_repeats(made: Input) -> Bool[np.ndarray, "sequence prediction"]:
    """Return a mask of the predictions that repetition determines, or that follow a natural match.

    The first on an input of kind "repeated", the second on others.
    """
    if made.kind == "repeated":
        return counted_predictions(made)
    return probes_of(made, _NATURAL_MATCH).repeated


def _mean(record: Record, counted: Bool[np.ndarray, "sequence prediction"]) -> np.ndarray:
    losses = record.kept_loss.double().numpy()[counted]
    return np.asarray(losses.mean() if losses.size else np.nan)


def share(ablated: np.ndarray, restricted: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Return (ablated - restricted) / (ablated - clean); NaN where ablation changes nothing."""
    whole = ablated - clean
    # numpy would warn of a division by zero, and return an infinity.
    divides = np.isfinite(whole) and whole != 0
    return np.asarray((ablated - restricted) / whole if divides else np.nan)
