"""Clusters of neurons by frequency, and their rank."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from pipeline.measures.base import Context
from pipeline.measures.modular.pairs import PairTable
from pipeline.measures.modular.table import TableMeasure
from pipeline.schema import Variable

_NANDA = "Nanda et al. 2023, Progress measures for grokking, section 4.3"


class NeuronClusters(TableMeasure):
    """The MLP's neurons, grouped by the one frequency that explains most of their variance.

    N[a, b, n]: activations (after the nonlinearity) at '=' over the whole p x p table, float64;
    "multiply" with p prime: of discrete logarithms mod p - 1, as in `modular_addition`.

    - `variance_share[n]`: the largest share, over all k from 1 to (p - 1) / 2, of the variance of
      N[., ., n] in the 3 x 3 block {1, cos w_k a, sin w_k a} x {1, cos w_k b, sin w_k b}, its
      constant left out.
    - `best_frequency[n]`: that k; of several whose shares differ by less than 1e-9 of the largest
      (a neuron that is on for a single pair has the same share at every k) the lowest.
    - `cluster_size[k]`: neurons whose best frequency is k with a share of at least 0.85.
    - `cluster_rank[k]`: the number of singular values of the cluster's activations [pair, neuron]
      (not centred) that account for `rank_share` of the sum of their squares; 9 or fewer where the
      neurons are polynomials of degree 2 in the waves of k.
    - `cluster_top_nine[k]`: the share of that sum in the nine largest.

    NaN: neurons that are constant over the table, rank and share of clusters without a neuron; all
    clusters where a neuron is not finite, since it might belong to any.

    Departures: the authors' code stops at k = (p - 3) / 2 and takes every neuron's best frequency
    for a key frequency; the paper states rank nine without a criterion.
    """

    name = "neuron_clusters"
    version = 4
    needs_neurons = True
    variables = (
        Variable("variance_share", ("step", "neuron"), "1",
                 "Share of the neuron's variance that its best frequency explains.", _NANDA,
                 dtype="float64"),
        Variable("best_frequency", ("step", "neuron"), "1",
                 "The frequency that explains most of the neuron's variance.", _NANDA),
        Variable("cluster_size", ("step", "frequency"), "1",
                 "Number of neurons with 0.85 or more of their variance at the frequency.", _NANDA),
        Variable("cluster_rank", ("step", "frequency"), "1",
                 "Number of singular values with `rank_share` of the cluster's sum of squares."),
        Variable("cluster_top_nine", ("step", "frequency"), "1",
                 "Share of the cluster's sum of squares in its nine largest singular values.",
                 dtype="float64"),
    )  # fmt: skip

    rank_share: float = Field(0.95, gt=0, le=1)

    def compute(self, context: Context) -> dict[str, np.ndarray]:
        table = PairTable.of(context.record)
        waves, neurons = table.neuron_waves, table.neurons
        clusters = waves.members
        size, (rank, top_nine) = clusters.sum(dim=1).double(), self._ranks(neurons, clusters)
        if not waves.known:
            size, rank, top_nine = (torch.full_like(of, torch.nan) for of in (size, rank, top_nine))
        values = {
            "variance_share": waves.largest,
            "best_frequency": torch.where(waves.largest.isnan(), torch.nan, waves.best + 1),
            "cluster_size": size,
            "cluster_rank": rank,
            "cluster_top_nine": top_nine,
        }
        return {name: value.cpu().numpy() for name, value in values.items()}

    def _ranks(
        self, neurons: Float[Tensor, "pair neuron"], clusters: Bool[Tensor, "frequency neuron"]
    ) -> tuple[Float[Tensor, " frequency"], Float[Tensor, " frequency"]]:
        rank = torch.full((len(clusters),), torch.nan, dtype=torch.float64)
        top_nine = rank.clone()
        for k in clusters.any(dim=1).nonzero().flatten().tolist():
            held = _shares_held(neurons[:, clusters[k]])
            rank[k] = int((held < self.rank_share).sum()) + 1
            top_nine[k] = held[:9][-1]  # all, in clusters of fewer than nine neurons
        return rank, top_nine


def _shares_held(activations: Float[Tensor, "pair neuron"]) -> Float[Tensor, " neuron"]:
    """Return the share of the sum of squares in the r + 1 largest singular values, for each r."""
    # Squared singular values as eigenvalues of the Gram matrix [neuron, neuron], which is much
    # smaller than the table; ascending, hence the flip.
    squared = torch.linalg.eigvalsh(activations.T @ activations).flip(0).clamp(min=0)
    held = squared.cumsum(dim=0)
    return held / held[-1]
