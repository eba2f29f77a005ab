"""The main progress measures of grokking on modular arithmetic."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from pipeline import fourier
from pipeline.inputs import Input
from pipeline.measures.base import Measure, Reference, Setting, require_input
from pipeline.models.loading import Weights
from pipeline.models.residues import require_residue_weights, residue_weights
from pipeline.record import Pass, Record
from pipeline.schema import Variable

_NANDA = "Nanda et al. 2023, Progress measures for grokking via mechanistic interpretability"

# Where the answer is a homomorphism of the pair, cos(w_k(a + b)) is a function of the answer.
_WITH_WAVES = ("add", "subtract")


class ModularAddition(Measure):
    """Losses and sparsity in the Fourier basis, for a model of a binary operation mod p.

    Data: the whole p x p table, float64; L[a, b, c] are the logits at '=', its own logit dropped.
    w_k = 2 pi k / p, s = a + b ("subtract": s = a - b), and W_L = W_out W_U. Key frequencies K: all
    k from 1 to (p - 1) / 2 (p / 2 where p is even) where the squared norm of the Fourier transform
    of W_L over the residues is at least `key_share` of the largest; from the last checkpoint, the
    same at every step.

    - `train_loss`, `test_loss`: mean cross-entropy in nats over the pairs of the split.
    - `restricted_loss`: mean over ALL pairs, with L replaced by its mean over all pairs plus its
      projection on cos(w_k s) and sin(w_k s), k in K (each residue c on its own).
    - `excluded_loss`: mean over the TRAIN pairs, with that projection (of all pairs) removed from
      L, for all of K at once.
    - `gini_embedding`, `gini_neuron_logit`: Gini coefficient of the norms of the p - 1
      non-constant Fourier components of W_E, and of W_L over its residues.
    - `logit_variance_explained`: 1 - |L' - sum_k alpha_k cos(w_k(s - c))|^2 / |L'|^2 with
      least-squares alpha, k in K, and L' = L minus its mean over all pairs and residues.
    - `embedding_norm[k]`: norm of the Fourier components of W_E at frequency k, in an orthonormal
      basis, cosine and sine together.

    NaN: `restricted_loss`, `excluded_loss` and `logit_variance_explained` for operations other
    than add and subtract, where no wave in one linear combination of a and b gives the answer;
    a Gini coefficient of weights that are all zero. W_out is the last layer's; LayerNorm gains are
    not folded in.

    Departures: the paper publishes no threshold for "nontrivial" frequencies and no split for the
    restricted loss; its code tests k up to (p - 3) / 2 and evaluates losses in float32. Its "20
    terms" are read as its code has them: the two directions cos, sin(w_k(a + b)) per frequency.
    """

    name = "modular_addition"
    version = 1
    default_input = "table"
    reference_from = "last"
    variables = (
        Variable("train_loss", ("step",), "nats", "Mean loss on the train pairs.", _NANDA,
                 dtype="float64"),
        Variable("test_loss", ("step",), "nats", "Mean loss on the test pairs.", _NANDA,
                 dtype="float64"),
        Variable("restricted_loss", ("step",), "nats",
                 "Loss on all pairs with only the key frequencies' waves in the answer kept in the "
                 "logits, and their mean.", _NANDA, dtype="float64"),
        Variable("excluded_loss", ("step",), "nats",
                 "Loss on the train pairs with the key frequencies' waves in the answer removed "
                 "from the logits.", _NANDA, dtype="float64"),
        Variable("gini_embedding", ("step",), "1",
                 "Gini coefficient of the Fourier norms of W_E.", _NANDA, dtype="float64"),
        Variable("gini_neuron_logit", ("step",), "1",
                 "Gini coefficient of the Fourier norms of W_L = W_out W_U.", _NANDA,
                 dtype="float64"),
        Variable("logit_variance_explained", ("step",), "1",
                 "Share of the logits' variance that cos(w_k(a+b-c)) explain, k the key "
                 "frequencies.", _NANDA, dtype="float64"),
        Variable("embedding_norm", ("step", "frequency"), "1",
                 "Norm of the Fourier components of W_E at each frequency.", _NANDA,
                 dtype="float64"),
    )  # fmt: skip

    key_share: float = Field(0.1, gt=0, le=1)

    def check(self, setting: Setting) -> None:
        """Refuse a table or a model for which W_L over the residues is not defined."""
        table = require_input(self, setting, "table")
        require_residue_weights(self.name, setting.model, table.attributes["p"])

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """One pass in float64 that keeps the logits at '='."""
        table = require_input(self, setting, "table")
        return (Pass(table.name, logit_positions=(-1,), dtype="float64"),)

    def coordinates(self, setting: Setting) -> dict[str, np.ndarray]:
        """Frequencies are numbered from 1."""
        p = require_input(self, setting, "table").attributes["p"]
        return {"frequency": np.arange(1, fourier.n_frequencies(p) + 1)}

    def reference(self, records: tuple[Record, ...], weights: Weights) -> Reference:
        """The key frequencies, by the neuron-logit map."""
        W_L = residue_weights(weights, records[0].input.attributes["p"]).W_L
        return {"key_frequencies": fourier.largest(fourier.power(W_L.T), self.key_share)}

    def compute(
        self, records: tuple[Record, ...], weights: Weights, reference: Reference | None
    ) -> dict[str, np.ndarray]:
        """See the class."""
        assert reference is not None
        table = Table(records[0])
        acting = residue_weights(weights, table.p)
        values = {
            **table.losses(),
            **table.wave_measures(reference["key_frequencies"]),
            "gini_embedding": fourier.gini(fourier.component_norms(acting.W_E)),
            "gini_neuron_logit": fourier.gini(fourier.component_norms(acting.W_L.T)),
            "embedding_norm": fourier.power(acting.W_E).sqrt(),
        }
        return {name: value.cpu().numpy() for name, value in values.items()}


class Table:
    """The logits of all pairs with the pairs' answers and split."""

    def __init__(self, record: Record) -> None:
        made: Input = record.input
        self.p: int = made.attributes["p"]
        self.has_waves = made.attributes["operation"] in _WITH_WAVES
        logits = record.logits[-1]
        self.logits: Float[Tensor, "pair residue"] = logits[:, : self.p].double()
        answers, is_train = made.arrays["labels"], made.arrays["is_train"]
        self.answers: Int[Tensor, " pair"] = torch.as_tensor(answers).to(logits.device)
        self.is_train: Bool[Tensor, " pair"] = torch.as_tensor(is_train).to(logits.device)

    def losses(self) -> dict[str, Float[Tensor, ""]]:
        """The plain losses of the two splits."""
        loss = fourier.cross_entropy(self.logits, self.answers)
        return {"train_loss": loss[self.is_train].mean(), "test_loss": loss[~self.is_train].mean()}

    def wave_measures(self, key_frequencies: list[int]) -> dict[str, Float[Tensor, ""]]:
        """What is defined by waves in the answer."""
        names = ("restricted_loss", "excluded_loss", "logit_variance_explained")
        if not self.has_waves:
            return dict.fromkeys(names, torch.tensor(torch.nan, dtype=torch.float64))
        by_answer = fourier.mean_by_answer(self.logits, self.answers, self.p)
        waves = fourier.projected(by_answer, key_frequencies)
        # All p pairs of one answer have the same restricted logits: p losses stand for p * p.
        every_answer = torch.arange(self.p, device=waves.device)
        restricted = fourier.cross_entropy(waves + by_answer.mean(dim=0), every_answer)
        answers = self.answers[self.is_train]
        excluded = fourier.cross_entropy(self.logits[self.is_train] - waves[answers], answers)
        values = (restricted.mean(), excluded.mean(), self._explained(by_answer, key_frequencies))
        return dict(zip(names, values, strict=True))

    def _explained(
        self, by_answer: Float[Tensor, "answer residue"], key_frequencies: list[int]
    ) -> Float[Tensor, ""]:
        """Orthogonal waves: each explains alpha_k^2 times its own squared norm over p^3 cells."""
        alpha = fourier.answer_wave_coefficients(by_answer)
        cells = self.logits.numel()
        norms = torch.full_like(alpha, cells / 2)
        if self.p % 2 == 0:
            norms[-1] = cells
        keys = torch.tensor([k - 1 for k in key_frequencies], dtype=torch.long, device=alpha.device)
        variance = (self.logits - self.logits.mean()).square().sum()
        return (alpha.square() * norms)[keys].sum() / variance
