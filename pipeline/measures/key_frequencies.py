"""Which frequencies a model uses, by each of the rules in use."""

import numpy as np
import torch

from pipeline.engine.record import Record
from pipeline.measures.base import Reference
from pipeline.models.loading import Weights
from pipeline.models.residues import residue_weights
from pipeline.modular import fourier
from pipeline.modular.table import Table, TableMeasure, key_frequencies
from pipeline.schema import Variable

_NANDA = "Nanda et al. 2023, Progress measures for grokking via mechanistic interpretability"
_DEMO = "TransformerLens, Grokking_Demo"


class KeyFrequencies(TableMeasure):
    """Key frequencies at each step by three rules, and the spectrum of W_L that one of them reads.

    All k from 1 to (p - 1) / 2 (p / 2 where p is even) are tested. 1 for a key frequency, else 0:

    - `by_neuron_logit`: the squared norm of the Fourier transform of W_L = W_out W_U over the
      residues is at least `key_share` (0.1) of the largest. The rule of `modular_addition`.
    - `by_embedding`: the norm of W_E's cosine or sine component is at least 1/4 of the largest.
    - `by_clusters`: at least one neuron has 0.85 of its variance at this frequency (see
      `neuron_clusters`).
    - `neuron_logit_norm[k]`: norm of the Fourier components of W_L at k, cosine and sine together.

    These are each step's own. What other measures call key frequencies is fixed from the last
    checkpoint, so that a change of the loss is never a change of the rule's choice.
    """

    name = "key_frequencies"
    version = 1
    needs_neurons = True
    variables = (
        Variable("by_neuron_logit", ("step", "frequency"), "1",
                 "1 where the frequency is key by the spectrum of W_L.", _NANDA, dtype="int32"),
        Variable("by_embedding", ("step", "frequency"), "1",
                 "1 where the frequency is key by the spectrum of W_E.", _DEMO, dtype="int32"),
        Variable("by_clusters", ("step", "frequency"), "1",
                 "1 where the frequency has a cluster of neurons.", _NANDA, dtype="int32"),
        Variable("neuron_logit_norm", ("step", "frequency"), "1",
                 "Norm of the Fourier components of W_L at each frequency.", _NANDA,
                 dtype="float64"),
    )  # fmt: skip

    def compute(
        self, records: tuple[Record, ...], weights: Weights, reference: Reference | None
    ) -> dict[str, np.ndarray]:
        """See the class."""
        table = Table.of(records[0])
        acting = residue_weights(weights)
        rules = key_frequencies(table, weights, self.key_share)
        count = fourier.n_frequencies(table.p)
        marked = {f"by_{rule}": _marks(keys, count) for rule, keys in rules.items()}
        return {**marked, "neuron_logit_norm": fourier.power(acting.W_L.T).sqrt().cpu().numpy()}


def _marks(keys: list[int], count: int) -> np.ndarray:
    marks = torch.zeros(count, dtype=torch.int32)
    marks[[k - 1 for k in keys]] = 1
    return marks.numpy()
