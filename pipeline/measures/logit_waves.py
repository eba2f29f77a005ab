"""Coefficients of the logits on each cos(w_k(a + b - c))."""

import numpy as np

from pipeline.measures.base import Context
from pipeline.measures.modular import fourier
from pipeline.measures.modular.pairs import PairTable
from pipeline.measures.modular.table import TableMeasure
from pipeline.schema import Variable

_NANDA = "Nanda et al. 2023, Progress measures for grokking, section 4.2 and figure 14"


class LogitWaves(TableMeasure):
    """Coefficients of the logits on cos(w_k(s - c)) for every k, and the variance they explain.

    L[a, b, c]: logits of all pairs at '=', float64; s = a + b ("subtract": a - b). "multiply" with
    p prime: of discrete logarithms mod p - 1, as in `modular_addition`.

    - `coefficient[k]`: alpha_k of the least-squares fit L ~ sum_k alpha_k cos(w_k(s - c)).
    - `variance_explained[k]`: alpha_k^2 |cos(w_k(s - c))|^2 / |L - mean L|^2, the mean and the
      norms over all pairs and residues. The waves are orthogonal, so these add up.

    k from 1 to (p - 1) / 2 (p / 2 where p is even). NaN for other operations.
    Departure: the paper fits the key frequencies only, which gives the same alpha_k.
    """

    name = "logit_waves"
    version = 2
    variables = (
        Variable("coefficient", ("step", "frequency"), "1",
                 "Least-squares coefficient of the logits on cos(w_k(a+b-c)).", _NANDA,
                 dtype="float64"),
        Variable("variance_explained", ("step", "frequency"), "1",
                 "Share of the logits' variance that cos(w_k(a+b-c)) explains.", _NANDA,
                 dtype="float64"),
    )  # fmt: skip
    needs_waves = tuple(variable.name for variable in variables)

    def compute(self, context: Context) -> dict[str, np.ndarray]:
        table = PairTable.of(context.record)
        if not table.has_waves:
            nan = np.full(fourier.n_frequencies(table.p), np.nan)
            return {variable.name: nan for variable in self.variables}
        return {
            "coefficient": fourier.answer_wave_coefficients(table.by_answer).cpu().numpy(),
            "variance_explained": table.variance_explained.cpu().numpy(),
        }
