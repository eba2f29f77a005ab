"""Ablation of every subset of a few heads: the increase of the loss."""

from itertools import combinations
from typing import Literal

import numpy as np

from pipeline.engine.record import HeadChange, Pass
from pipeline.errors import InputError
from pipeline.measures.base import Context, Measure, Setting
from pipeline.measures.head_ablation import chosen_heads, mean_losses, refuse_absent
from pipeline.models.facts import ModelFacts
from pipeline.schema import Variable

MOST_HEADS = 8

_SUBSET = ("step", "subset")
Heads = tuple[tuple[int, int], ...]


class SubsetAblation(Measure):
    """Increase of the loss when a subset of some heads is ablated, for every subset of them.

        loss[S] = mean loss with the outputs (before W_O) of all heads in S ablated
                  - mean loss without ablation

    `subset` is the sum of 2^i over the heads in S, i being the head's place in `heads` from 0: 0
    is no head, 2^i the i-th alone, 2^n - 1 all n. The mean when k of the n are removed is that
    over the subsets of k heads:

        removed = np.bitwise_count(data.subset)
        data.repeated_loss.assign_coords(removed=removed).groupby("removed").mean()

    Where heads act independently, the increase of a subset is the sum of its heads' increases
    alone; where they compensate for each other, it is greater.

    `repeated_loss` is the same over the predictions that repetition determines, on repeated random
    tokens. Ablated to "zero", or to the head's own "mean" over all tokens of the input without
    ablation. Later layers run on the changed stream (total effects).

    `heads` lists at most 8 heads as [layer, head]; without it, all of a model that has no more.
    2^n - 1 passes from the lowest ablated layer on. Padding does not count. `repeated_loss` is NaN
    on inputs of another kind.
    """

    name = "subset_ablation"
    version = 1
    default_input = "repeated"
    needs_heads = True
    variables = (
        Variable("loss", _SUBSET, "nats", "Increase of the mean loss without the heads."),
        Variable("repeated_loss", _SUBSET, "nats",
                 "Increase of the mean loss of repeated tokens without the heads."),
    )  # fmt: skip

    heads: Heads | None = None
    ablated_to: Literal["zero", "mean"] = "zero"

    def check(self, setting: Setting) -> None:
        """Raise InputError for heads that the model lacks, heads given twice, or too many."""
        few_heads(self.name, self.heads, setting.model)

    def why_undefined(self, setting: Setting) -> str:
        """Return why the loss of repeated tokens is undefined on an input without them."""
        made = setting.input
        if made.kind == "repeated":
            return ""
        return f"repeated_loss: NaN, because input {made.name!r} has no repeated random tokens"

    def coordinates(self, setting: Setting) -> dict[str, np.ndarray]:
        """Return a number for every subset."""
        return {"subset": np.arange(2 ** len(few_heads(self.name, self.heads, setting.model)))}

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """Return a pass for each subset, in the order of their numbers."""
        heads = few_heads(self.name, self.heads, setting.model)
        changes = [HeadChange(one, self.ablated_to) if one else None for one in subsets(heads)]
        return tuple(Pass(setting.input.name, losses=True, change=one) for one in changes)

    def compute(self, context: Context) -> dict[str, np.ndarray]:
        losses = [mean_losses(record) for record in context.records]
        return {
            name: np.array([of[name] - losses[0][name] for of in losses])
            for name in ("loss", "repeated_loss")
        }


def subsets(heads: Heads) -> list[Heads]:
    """Return every subset of the heads; the i-th head is in those whose index has bit i."""
    return [
        tuple(head for i, head in enumerate(heads) if index >> i & 1)
        for index in range(2 ** len(heads))
    ]


def few_heads(measure: str, heads: Heads | None, model: ModelFacts) -> Heads:
    """Return the heads of a measure whose cost allows `MOST_HEADS` of them; all if None.

    Raises InputError for other numbers of heads, and for heads that are absent or given twice.
    """
    chosen = chosen_heads(heads, model)
    refuse_absent(measure, chosen, model)
    if not 1 <= len(chosen) <= MOST_HEADS:
        without = " (all of the model, since `heads` is not given)" if heads is None else ""
        raise InputError(
            f"measure {measure!r}: {len(chosen)} heads{without}, expected 1 to {MOST_HEADS}: "
            "correct `heads`"
        )
    if twice := [one for one, other in combinations(chosen, 2) if one == other]:
        raise InputError(
            f"measure {measure!r}: the head {list(twice[0])} is given twice: correct `heads`"
        )
    return chosen
