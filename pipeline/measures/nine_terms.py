"""Loss with nine terms for each neuron, and two output directions for each cluster."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from pipeline.measures.base import Context, Setting
from pipeline.measures.modular import fourier
from pipeline.measures.modular.pairs import PairTable
from pipeline.measures.modular.table import TableMeasure
from pipeline.schema import Variable

_NANDA = "Nanda et al. 2023, Progress measures for grokking, sections 4.2 and 4.3"
_FINAL_NORM = "model.norm.weight"


class NineTerms(TableMeasure):
    """Loss where each neuron is a polynomial of degree 2 in the waves of one frequency.

    N[a, b, n]: activations of the MLP at '=' over the whole table, float64; k_n: the best frequency
    of neuron n at this step (see `neuron_clusters`). N'[., ., n] is the projection of N[., ., n] on
    the nine products {1, cos w_k a, sin w_k a} x {1, cos w_k b, sin w_k b}, k = k_n. W_L = W_out
    W_U; W'_L[n, .] is the projection of W_L[n, .] on cos(w_k c) and sin(w_k c), k = k_n, so that
    each cluster writes in two directions. The logits L change by what the MLP contributes:

    - `all`, `test`: mean loss of L + (N' - N) W_L, over all pairs and over the test pairs.
    - `two_directions_all`, `two_directions_test`: of L - N W_L + N' W'_L.
    - `clusters_all`, `clusters_test`: as before, for neurons of a cluster (at least 0.85 of their
      variance in the terms of k_n); all other neurons have their mean over all pairs and their W_L.
    - `unchanged_all`, `unchanged_test`: of L, for comparison.
    - `other_frequency_all`, `other_frequency_test`: null for `all` and `test`, with a frequency
      drawn for each neuron (seed `null_seed`) from those that are not k_n.

    Neurons that are constant over the table stay as they are; one without a cluster has the nine
    terms and two directions of its own best frequency, except in `clusters_*`. Whatever reaches
    the logits around the MLP is kept. "multiply" with p prime: of discrete logarithms mod p - 1, as
    in `modular_addition`. For operations without waves in the answer, a and b are residues, too.

    NaN: in models with a final norm, in which the logits are not linear in N; all but `unchanged_*`
    where a neuron is not finite; the null where there is one frequency.

    Departures: the paper replaces the neurons of clusters, by terms of key frequencies only, and
    does not say what becomes of the others.
    """

    name = "nine_terms"
    version = 1
    needs_neurons = True
    variables = tuple(
        Variable(f"{name}{split}", ("step",), "nats", f"Loss on {pairs}{change}.", _NANDA,
                 dtype="float64")
        for name, change in (
            ("", " with nine terms for each neuron"),
            ("two_directions_", " with nine terms for each neuron, and two output directions"),
            ("clusters_", " with nine terms and two output directions for each neuron of a "
                          "cluster, and the mean of all others"),
            ("unchanged_", ""),
            ("other_frequency_", " with nine terms of another frequency for each neuron"),
        )
        for split, pairs in (("all", "all pairs"), ("test", "the test pairs"))
    )  # fmt: skip

    null_seed: int = Field(0, ge=0)

    def why_undefined(self, setting: Setting) -> str:
        """Return the reason that depends on the model, or that there is only one frequency."""
        named = [variable.name for variable in self.variables]
        if _FINAL_NORM in setting.model.parameters:
            reason = "the final norm makes the logits no linear function of the neurons"
            return f"{', '.join(named)}: NaN, because {reason}"
        p = setting.input.attributes["p"]
        if fourier.n_frequencies(p) > 1:
            return ""
        return (
            "other_frequency_all, other_frequency_test: NaN, because the residues mod "
            f"{p} have one frequency and so no other"
        )

    def compute(self, context: Context) -> dict[str, np.ndarray]:
        nan = np.array(np.nan)
        values = {variable.name: nan for variable in self.variables}
        if _FINAL_NORM in context.model.parameters:
            return values
        table = PairTable.of(context.record)
        logits = {"unchanged_": table.logits}
        if table.neuron_waves.known:
            W_L = table.acting(context.weights).W_L.to(table.neurons.device)
            logits |= _restricted(table, W_L, self.null_seed)
        for name, changed in logits.items():
            loss = fourier.cross_entropy(changed, table.answers)
            values[f"{name}all"] = loss.mean().cpu().numpy()
            values[f"{name}test"] = loss[~table.is_train].mean().cpu().numpy()
        return values


def _restricted(
    table: PairTable, W_L: Float[Tensor, "neuron residue"], null_seed: int
) -> dict[str, Float[Tensor, "pair residue"]]:
    """Return the logits of each variant, by the beginning of its variables' names."""
    neurons, waves = table.neurons, table.neuron_waves
    nine, two = nine_terms(neurons, table.p, waves.best), two_directions(W_L, waves.best)
    around = table.logits - neurons @ W_L
    # A constant neuron is its own mean. No singled-out directions for it: it has no frequency.
    two = torch.where(waves.constant[:, None], W_L, two)
    member = waves.members.any(dim=0)
    clusters = torch.where(member, nine, neurons.mean(dim=0))
    made = {
        "": around + nine @ W_L,
        "two_directions_": around + nine @ two,
        "clusters_": around + clusters @ torch.where(member[:, None], two, W_L),
    }
    if (other := _others(waves.best, fourier.n_frequencies(table.p), null_seed)) is not None:
        made["other_frequency_"] = around + nine_terms(neurons, table.p, other) @ W_L
    return made


def nine_terms(
    neurons: Float[Tensor, "pair neuron"], p: int, frequency: Int[Tensor, " neuron"]
) -> Float[Tensor, "pair neuron"]:
    """Return the projection of each neuron on the nine terms of its frequency (from 0: k - 1)."""
    basis = fourier.fourier_basis(p).to(neurons.device)
    projected = torch.zeros_like(neurons)
    for k, of_k in _by_frequency(frequency):
        waves = torch.cat([basis[:1], basis[2 * k + 1 : 2 * k + 3]])
        over = waves.T @ waves
        grid = neurons[:, of_k].view(p, p, -1)
        projected[:, of_k] = torch.einsum("xa,abn,yb->xyn", over, grid, over).flatten(0, 1)
    return projected


def two_directions(
    W_L: Float[Tensor, "neuron residue"], frequency: Int[Tensor, " neuron"]
) -> Float[Tensor, "neuron residue"]:
    """Return the projection of each neuron's row on the waves of its frequency (from 0: k - 1)."""
    projected = torch.zeros_like(W_L)
    for k, of_k in _by_frequency(frequency):
        waves = fourier.waves_of(W_L.shape[1], [k + 1]).to(W_L.device)
        projected[of_k] = W_L[of_k] @ waves.T @ waves
    return projected


def _by_frequency(frequency: Int[Tensor, " neuron"]) -> list[tuple[int, Bool[Tensor, " neuron"]]]:
    return [(k, frequency == k) for k in frequency.unique().tolist()]


def _others(best: Int[Tensor, " neuron"], count: int, seed: int) -> Int[Tensor, " neuron"] | None:
    """Return for each neuron a frequency that is not its best one, None where there is no other."""
    if count < 2:
        return None
    steps = np.random.default_rng(seed).integers(1, count, size=len(best))
    return (best + torch.from_numpy(steps).to(best)) % count
