"""The table of all pairs of an operation, and the base class of measures on it."""

from collections.abc import MutableMapping
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from pipeline.engine.record import Pass, Record
from pipeline.errors import InputError
from pipeline.inputs import Input
from pipeline.measures.base import Measure, Reference, Setting
from pipeline.measures.modular import fourier
from pipeline.measures.modular.neuron_waves import NeuronWaves, neuron_waves
from pipeline.models.residues import ResidueWeights, require_residue_weights, residue_weights
from pipeline.models.weights import Weights

# Where the answer is a homomorphism of the pair, cos(w_k(a + b)) is a function of the answer.
WITH_WAVES = ("add", "subtract")


class TableMeasure(Measure):
    """A measure of a model of modular arithmetic, on the whole table of its operation.

    key_share: see `fourier.largest`; the share of the largest squared norm of the Fourier transform
    of W_L that makes a frequency a key frequency.
    """

    default_input = "table"
    input_kind = "table"
    needs_neurons: ClassVar[bool] = False
    needs_waves: ClassVar[tuple[str, ...]] = ()  # variables that are functions of waves in a + b

    key_share: float = Field(0.1, gt=0, le=1)

    def check(self, setting: Setting) -> None:
        """Raise InputError for a table or a model without a W_L over the residues."""
        p = setting.input.attributes["p"]
        require_residue_weights(self.name, setting.model, p)
        if self.needs_neurons and not _one_layer(setting):
            raise InputError(
                f"measure {self.name!r}: reads the neurons of a one-layer organism without "
                f"smeared keys, found a {setting.model.architecture} of "
                f"{setting.model.n_layers} layers: leave the measure out"
            )

    def why_undefined(self, setting: Setting) -> str:
        """Return which variables are undefined for operations other than add and subtract."""
        made = setting.input
        operation = made.attributes["operation"]
        if not self.needs_waves or has_waves(made):
            return ""
        return (
            f"{', '.join(self.needs_waves)}: NaN, because for the operation {operation!r} no wave "
            "in one linear combination of a and b gives the answer, as it does for add and subtract"
        )

    def computed_in(self, setting: Setting, dtype: str) -> str:
        """Return float64, whatever the worker's dtype."""
        return "float64"

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """Return one pass in float64 that records the logits at '=', and the neurons if needed."""
        table = setting.input.name
        return (Pass(table, logit_positions=(-1,), neurons=self.needs_neurons, dtype="float64"),)

    def coordinates(self, setting: Setting) -> dict[str, np.ndarray]:
        """Return frequencies from 1, residues and neurons; p is the vocabulary without '='."""
        p = setting.model.vocabulary - 1
        known = {
            "frequency": np.arange(1, fourier.n_frequencies(p) + 1),
            "residue": np.arange(p),
            "neuron": np.arange(setting.model.d_mlp or 0),
        }
        used = {dim for variable in self.variables for dim in variable.dims[1:]}
        return {dim: known[dim] for dim in sorted(used)}


def _one_layer(setting: Setting) -> bool:
    model = setting.model
    smeared = any(name.endswith("smear_alpha") for name in model.parameters)
    return model.architecture == "OrganismForCausalLM" and model.n_layers == 1 and not smeared


class PairTable:
    """The logits of all pairs (and the neurons, where recorded) with the pairs' answers and split.

    Rows are the pairs, a * p + b; the logit of '=' is dropped.
    """

    @classmethod
    def of(cls, record: Record) -> "PairTable":
        """Return the table of a record, shared by all measures that read it."""
        if record not in _TABLES:
            _TABLES[record] = cls(record)
        return _TABLES[record]

    def __init__(self, record: Record) -> None:
        made = record.input
        self.p: int = made.attributes["p"]
        self.has_waves = has_waves(made)
        logits = record.logits[-1]
        self.logits: Float[Tensor, "pair residue"] = logits[:, : self.p].double()
        self._record = record
        answers, is_train = made.arrays["labels"], made.arrays["is_train"]
        self.answers: Int[Tensor, " pair"] = torch.as_tensor(answers).to(logits.device)
        self.is_train: Bool[Tensor, " pair"] = torch.as_tensor(is_train).to(logits.device)

    @property
    def neurons(self) -> Float[Tensor, "pair neuron"]:
        """The neurons. Raises TypeError where the measure does not set `needs_neurons`."""
        return self._record.kept_neurons

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


def has_waves(made: Input) -> bool:
    """Return whether the answer is a function of waves in one linear combination of a and b."""
    return made.attributes["operation"] in WITH_WAVES


def key_frequencies_by_neuron_logit(acting: ResidueWeights, share: float) -> list[int] | None:
    """Return the frequencies whose power in W_L is at least `share` of the largest."""
    return fourier.largest(fourier.power(acting.W_L.T), share)


def key_frequencies_by_embedding(acting: ResidueWeights) -> list[int] | None:
    """Return the frequencies whose cosine or sine norm in W_E is at least 1/4 of the largest.

    The rule of TransformerLens' Grokking_Demo.
    """
    squared = fourier.component_norms(acting.W_E).square()
    best = torch.stack([part.amax() for part in squared.split(2)])
    return fourier.largest(best, 1 / 16)  # 1/4 of the norms, squared


def main_key_frequencies(made: Input, weights: Weights, share: float) -> Reference:
    """Return the reference of measures that use the key frequencies of one checkpoint, by W_L.

    `key_frequencies` is empty where they are not defined, and `undefined` says why.
    """
    if not has_waves(made):
        reason = f"no wave gives the answer of the operation {made.attributes['operation']!r}"
        return {"key_frequencies": [], "undefined": reason}
    keys = key_frequencies_by_neuron_logit(residue_weights(weights), share)
    if keys is None:
        return {"key_frequencies": [], "undefined": "W_L of the last checkpoint is not finite"}
    return {"key_frequencies": keys}


def defined_keys(reference: Reference) -> list[int] | None:
    """Return the key frequencies of `main_key_frequencies`; None where they are not defined."""
    return None if reference.get("undefined") else list(reference["key_frequencies"])


def key_frequencies(
    table: PairTable, weights: Weights, share: float
) -> dict[str, list[int] | None]:
    """Return the key frequencies of one checkpoint, by each of the rules.

    None where they are not defined: for operations without waves in the answer, and where the
    numbers that a rule uses are not finite.
    """
    if not table.has_waves:
        return dict.fromkeys(("neuron_logit", "embedding", "clusters"))
    acting = residue_weights(weights)
    return {
        "neuron_logit": key_frequencies_by_neuron_logit(acting, share),
        "embedding": key_frequencies_by_embedding(acting),
        "clusters": table.neuron_waves.key_frequencies,
    }
