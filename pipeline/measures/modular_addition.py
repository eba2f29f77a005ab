"""The main progress measures of grokking on modular arithmetic."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.measures.base import Context, Reference
from pipeline.measures.modular import fourier
from pipeline.measures.modular.keys import defined_keys, main_key_frequencies
from pipeline.measures.modular.pairs import PairTable
from pipeline.measures.modular.table import TableMeasure
from pipeline.schema import Variable

_NANDA = "Nanda et al. 2023, Progress measures for grokking via mechanistic interpretability"


class ModularAddition(TableMeasure):
    """Losses and sparsity in the Fourier basis, for a model of a binary operation mod p.

    Data: the whole p x p table, float64; L[a, b, c] are the logits at '=', its own logit dropped.
    w_k = 2 pi k / p, s = a + b ("subtract": s = a - b), and W_L = W_out W_U. Multiplication mod a
    prime is addition of discrete logarithms: for "multiply" with p prime, a, b and c stand for the
    logarithms (to the least primitive root) of nonzero residues and p for p - 1; pairs and logits
    of 0, which has no logarithm, count in `train_loss` and `test_loss` alone. Key frequencies K:
    all k from 1 to (p - 1) / 2 (p / 2 where p is even) where the squared norm of the Fourier
    transform of W_L over the residues is at least `key_share` of the largest; from the last
    checkpoint, the same at every step.

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

    NaN: `restricted_loss`, `excluded_loss` and `logit_variance_explained` for other operations,
    where no wave in one linear combination of a and b gives the answer, so that no frequency is
    key, and where the last checkpoint's W_L is not finite;
    a Gini coefficient of weights that are all zero. W_out is the last layer's; LayerNorm gains are
    not folded in.

    Departures: the paper publishes no threshold for "nontrivial" frequencies and no split for the
    restricted loss; its code tests k up to (p - 3) / 2 and evaluates losses in float32. Its "20
    terms" are interpreted as in its code: the two directions cos, sin(w_k(a + b)) per frequency.
    """

    name = "modular_addition"
    version = 3
    reference_from = "last"
    needs_waves = ("restricted_loss", "excluded_loss", "logit_variance_explained")
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

    def reference(self, context: Context) -> Reference:
        return main_key_frequencies(context.input, context.weights, self.key_share)

    def compute(self, context: Context) -> dict[str, np.ndarray]:
        table = PairTable.of(context.record)
        acting = table.acting(context.weights)
        whole = table.whole
        loss = fourier.cross_entropy(whole.logits, whole.answers)
        values = {
            "train_loss": loss[whole.is_train].mean(),
            "test_loss": loss[~whole.is_train].mean(),
            **_wave_measures(table, defined_keys(context.reference)),
            "gini_embedding": fourier.gini(fourier.component_norms(acting.W_E)),
            "gini_neuron_logit": fourier.gini(fourier.component_norms(acting.W_L.T)),
            "embedding_norm": fourier.power(acting.W_E).sqrt(),
        }
        return {name: value.cpu().numpy() for name, value in values.items()}


def _wave_measures(table: PairTable, keys: list[int] | None) -> dict[str, Float[Tensor, ""]]:
    """Return the measures that are defined by waves in the answer; NaN without key frequencies."""
    names = ModularAddition.needs_waves
    if not table.has_waves or keys is None:
        return dict.fromkeys(names, torch.tensor(torch.nan, dtype=torch.float64))
    waves = fourier.projected(table.by_answer, keys)
    restricted = table.loss_by_answer(waves + table.mean_logits).mean()
    explained = table.variance_explained[[k - 1 for k in keys]].sum()
    return dict(zip(names, (restricted, table.train_loss_without(waves), explained), strict=True))
