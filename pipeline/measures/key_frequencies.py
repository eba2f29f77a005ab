"""Key frequencies of a model, by each of the published rules."""

import numpy as np
from jaxtyping import Float

from pipeline.measures.base import Context
from pipeline.measures.modular import fourier
from pipeline.measures.modular.keys import key_frequencies
from pipeline.measures.modular.pairs import PairTable
from pipeline.measures.modular.table import TableMeasure
from pipeline.schema import Variable

_NANDA = "Nanda et al. 2023, Progress measures for grokking via mechanistic interpretability"
_DEMO = "TransformerLens, Grokking_Demo"


class KeyFrequencies(TableMeasure):
    """Key frequencies at each step by three rules, and the spectrum of W_L that one of them reads.

    All k from 1 to (p - 1) / 2 (p / 2 where p is even) are tested; "multiply" with p prime: of
    discrete logarithms mod p - 1, as in `modular_addition`. 1 for a key frequency, else 0:

    - `by_neuron_logit`: the squared norm of the Fourier transform of W_L = W_out W_U over the
      residues is at least `key_share` (0.1) of the largest. The rule of `modular_addition`.
    - `by_embedding`: the norm of W_E's cosine or sine component is at least 1/4 of the largest.
    - `by_clusters`: at least one neuron has 0.85 of its variance at this frequency (see
      `neuron_clusters`).
    - `neuron_logit_norm[k]`: norm of the Fourier components of W_L at k, cosine and sine together.

    NaN, all three rules: for operations other than add, subtract and multiply mod a prime, where no
    wave gives the answer and so no frequency is key. NaN, one rule: where the numbers that it uses
    are not finite.

    These are determined at each step. Other measures use the key frequencies of the last
    checkpoint at every step, so that a change of a loss never comes from another set of them.
    """

    name = "key_frequencies"
    version = 3
    needs_neurons = True
    variables = (
        Variable("by_neuron_logit", ("step", "frequency"), "1",
                 "1 where the frequency is key by the spectrum of W_L.", _NANDA),
        Variable("by_embedding", ("step", "frequency"), "1",
                 "1 where the frequency is key by the spectrum of W_E.", _DEMO),
        Variable("by_clusters", ("step", "frequency"), "1",
                 "1 where the frequency has a cluster of neurons.", _NANDA),
        Variable("neuron_logit_norm", ("step", "frequency"), "1",
                 "Norm of the Fourier components of W_L at each frequency.", _NANDA,
                 dtype="float64"),
    )  # fmt: skip
    needs_waves = ("by_neuron_logit", "by_embedding", "by_clusters")

    def compute(self, context: Context) -> dict[str, np.ndarray]:
        table = PairTable.of(context.record)
        acting = table.acting(context.weights)
        rules = key_frequencies(table, context.weights, self.key_share)
        count = fourier.n_frequencies(table.p)
        marked = {f"by_{rule}": _marks(keys, count) for rule, keys in rules.items()}
        return {**marked, "neuron_logit_norm": fourier.power(acting.W_L.T).sqrt().cpu().numpy()}


def _marks(keys: list[int] | None, count: int) -> Float[np.ndarray, " frequency"]:
    if keys is None:
        return np.full(count, np.nan)
    return np.isin(np.arange(1, count + 1), keys).astype(np.float64)
