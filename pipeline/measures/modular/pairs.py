"""The table of all pairs of an operation, as a model computes it."""

from collections.abc import MutableMapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from pipeline.engine.record import Record
from pipeline.measures.modular import fourier
from pipeline.measures.modular.elements import (
    acting_weights,
    has_waves,
    in_natural_order,
    order_of,
)
from pipeline.measures.modular.neuron_waves import NeuronWaves, neuron_waves
from pipeline.models.residues import ResidueWeights
from pipeline.models.weights import Weights


@dataclass(frozen=True)
class WholeTable:
    """Logits, answers and split of all pairs a * p + b, the residues from 0; without '='."""

    p: int
    logits: Float[Tensor, "pair residue"]
    answers: Int[Tensor, " pair"]
    is_train: Bool[Tensor, " pair"]

    @classmethod
    def of(cls, record: Record) -> "WholeTable":
        """Return the table of a record."""
        made, logits = record.input, record.logits[-1]
        p = made.attributes["p"]
        answers, is_train = (
            torch.as_tensor(made.arrays[name]).to(logits.device) for name in ("labels", "is_train")
        )
        return cls(p, logits[:, :p].double(), answers, is_train)


class PairTable:
    """The logits of all pairs (and the neurons, where recorded) with the pairs' answers and split.

    The elements are in the order in which the operation adds or subtracts their indices, where it
    has one (see `elements_in_order`): of "multiply" mod a prime, these are the p - 1 nonzero
    residues by their discrete logarithm. `p` is the number of elements, and "residue" and "answer"
    are indices of elements. Rows are the pairs, a * p + b; the logit of '=' is dropped, and so are
    pairs and logits of a 0 that has no logarithm: `whole` is the table with them.
    """

    @classmethod
    def of(cls, record: Record) -> "PairTable":
        """Return the table of a record, shared by all measures that read it."""
        if record not in _TABLES:
            _TABLES[record] = cls(record)
        return _TABLES[record]

    def __init__(self, record: Record) -> None:
        self._record = record
        self.whole = WholeTable.of(record)
        self.has_waves = has_waves(record.input)
        self._order = None if in_natural_order(record.input) else order_of(record.input)
        self.p: int = self.whole.p if self._order is None else len(self._order)
        self.is_train: Bool[Tensor, " pair"] = self._kept(self.whole.is_train)

    def _kept(self, of_pairs: Shaped[Tensor, " pair *n"]) -> Shaped[Tensor, " kept *n"]:
        """Return the rows of the pairs of elements that are kept, in their order."""
        if self._order is None:
            return of_pairs
        ids = torch.tensor(self._order, device=of_pairs.device)
        return of_pairs[(ids[:, None] * self.whole.p + ids).flatten()]

    @cached_property
    def logits(self) -> Float[Tensor, "pair residue"]:
        """The logits of the elements."""
        logits = self._kept(self.whole.logits)
        return logits if self._order is None else logits[:, list(self._order)]

    @cached_property
    def answers(self) -> Int[Tensor, " pair"]:
        """The index of the element that answers each pair."""
        answers = self._kept(self.whole.answers)
        if self._order is None:
            return answers
        ids = torch.tensor(self._order, device=answers.device)
        index = ids.new_zeros(self.whole.p)
        index[ids] = torch.arange(self.p, device=ids.device)
        return index[answers]

    @cached_property
    def neurons(self) -> Float[Tensor, "pair neuron"]:
        """The neurons. Raises TypeError where the measure does not set `needs_neurons`."""
        return self._kept(self._record.kept_neurons)

    def acting(self, weights: Weights) -> ResidueWeights:
        """Return W_E, W_out and W_U of the elements."""
        return acting_weights(self._record.input, weights)

    @cached_property
    def by_answer(self) -> Float[Tensor, "answer residue"]:
        """Mean of the logits over the p pairs of each answer. Only where `has_waves`."""
        return self.mean_by_answer(self.logits)

    @cached_property
    def mean_logits(self) -> Float[Tensor, " residue"]:
        """Mean of the logits over all pairs."""
        return self.by_answer.mean(dim=0)

    @cached_property
    def train_pairs(self) -> Float[Tensor, " answer"]:
        """The number of train pairs of each answer."""
        return torch.bincount(self.answers[self.is_train], minlength=self.p).double()

    @cached_property
    def neuron_waves(self) -> NeuronWaves:
        """The neurons by frequency (see `NeuronWaves`). Only where neurons were recorded."""
        return neuron_waves(self.neurons, self.p)

    def mean_by_answer(self, x: Float[Tensor, "pair n"]) -> Float[Tensor, "answer n"]:
        """Return the mean of x over the p pairs of each answer, which occurs once for every a."""
        # In each row a, every answer occurs once: sorting by answer gives the pair of each.
        pairs_of = self.answers.view(self.p, self.p).argsort(dim=1)
        total = torch.zeros_like(x[: self.p])
        for row, order in zip(x.unflatten(0, (self.p, self.p)), pairs_of, strict=True):
            total += row[order]
        return total / self.p

    @cached_property
    def variance_explained(self) -> Float[Tensor, " frequency"]:
        """The share of the logits' variance (about their overall mean) on each cos(w_k(s - c)).

        The waves are orthogonal: each explains alpha_k^2 times its own squared norm.
        """
        alpha = fourier.answer_wave_coefficients(self.by_answer)
        cells = self.logits.numel()
        norms = torch.full_like(alpha, cells / 2)
        if self.p % 2 == 0:
            norms[-1] = cells
        return alpha.square() * norms / (self.logits - self.logits.mean()).square().sum()

    def loss_by_answer(self, logits: Float[Tensor, "answer residue"]) -> Float[Tensor, " answer"]:
        """Return the cross-entropy of logits that all pairs of one answer share."""
        return fourier.cross_entropy(logits, torch.arange(self.p, device=logits.device))

    def over_train(self, by_answer: Float[Tensor, " answer"]) -> Float[Tensor, ""]:
        """Return the mean over the train pairs of a function of the answer."""
        return (by_answer * self.train_pairs).sum() / self.train_pairs.sum()

    def over_test(self, by_answer: Float[Tensor, " answer"]) -> Float[Tensor, ""]:
        """Return the mean over the test pairs of a function of the answer."""
        test_pairs = self.p - self.train_pairs
        return (by_answer * test_pairs).sum() / test_pairs.sum()

    def train_loss_without(self, waves: Float[Tensor, "answer residue"]) -> Float[Tensor, ""]:
        """Return the mean loss on the train pairs with a function of the answer removed."""
        answers = self.answers[self.is_train]
        logits = self.logits[self.is_train] - waves[answers]
        return fourier.cross_entropy(logits, answers).mean()


# By identity, because records hold tensors and are not hashable; weakly, so that a table, which is
# as large as its record, goes with it.
_TABLES: MutableMapping[Record, PairTable] = WeakIdKeyDictionary()
