"""Fourier analysis over the residues mod p, and the exact cross-entropy that goes with it.

The orthonormal basis of Nanda et al. 2023 (arXiv 2301.05217): a constant, then a cosine and a sine
for every frequency. Everything is float64: the losses of a grokked model (1e-7 and below) are at
or below the resolution of float32.
"""

from collections.abc import Iterable
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor


def n_frequencies(p: int) -> int:
    """Return the number of frequencies of functions on Z_p: (p - 1) / 2, or p / 2 for even p."""
    return p // 2


@lru_cache(maxsize=8)  # all measures of a table use the same one, at every checkpoint
def fourier_basis(p: int) -> Float[Tensor, "component residue"]:
    """Return the p orthonormal real waves on Z_p, as rows: 1, cos 1, sin 1, cos 2, sin 2, ...

    Row 2k - 1 is sqrt(2/p) cos(2 pi k x / p) and row 2k its sine. Where p is even the last row is
    cos(pi x) / sqrt(p), whose sine vanishes.
    """
    k = torch.arange(1, (p - 1) // 2 + 1)[:, None]
    # The product is reduced mod p as an integer: large angles would lose digits.
    angles = (k * torch.arange(p) % p).double() * (2 * torch.pi / p)
    waves = torch.stack([angles.cos(), angles.sin()], dim=1).flatten(0, 1) * (2 / p) ** 0.5
    rows = [torch.full((1, p), p**-0.5, dtype=torch.float64), waves]
    if p % 2 == 0:
        alternating = 1 - 2 * (torch.arange(p) % 2).double()
        rows.append(alternating[None] * p**-0.5)
    return torch.cat(rows)


def waves_of(p: int, frequencies: Iterable[int]) -> Float[Tensor, "wave residue"]:
    """Return the rows of the basis that belong to the given frequencies (k >= 1)."""
    rows = [row for k in frequencies for row in (2 * k - 1, 2 * k) if row < p]
    return fourier_basis(p)[rows]


def component_norms(x: Float[Tensor, "residue n"]) -> Float[Tensor, " component"]:
    """Return the Euclidean norm of each of the p - 1 non-constant Fourier components of x."""
    return _components(x).norm(dim=1)


def power(x: Float[Tensor, "residue n"]) -> Float[Tensor, " frequency"]:
    """Return the squared norm of the Fourier transform over the residues, by frequency."""
    return powers(x).sum(dim=1)


def powers(x: Float[Tensor, "residue n"]) -> Float[Tensor, "frequency n"]:
    """Return the power at each frequency for each column of x."""
    return pairwise_sum(_components(x).square())


def _components(x: Float[Tensor, "residue n"]) -> Float[Tensor, "component n"]:
    return fourier_basis(len(x)).to(x.device)[1:] @ x


def pairwise_sum(components: Float[Tensor, " component *n"]) -> Float[Tensor, " frequency *n"]:
    """Add up the cosine and the sine of each frequency; components are all but the constant."""
    # For even p the last frequency has a cosine but no sine: one row less.
    cosines, sines = components[0::2].clone(), components[1::2]
    cosines[: len(sines)] += sines
    return cosines


def gini(values: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Return the Gini coefficient of non-negative values, sum_ij |x_i - x_j| / (2 n sum_i x_i).

    0 where all are equal, (n - 1) / n where all but one vanish; NaN where all vanish.
    Hurley & Rickard 2009, Comparing Measures of Sparsity.
    """
    n = len(values)
    rank = torch.arange(1, n + 1, dtype=values.dtype, device=values.device)
    return ((2 * rank - n - 1) * values.sort().values).sum() / (n * values.sum())


def largest(power_by_frequency: Float[Tensor, " frequency"], share: float) -> list[int] | None:
    """Return the frequencies (from 1) whose power is at least `share` of the largest, ascending.

    None where a power is not finite, so that the largest is not known.
    """
    if not power_by_frequency.isfinite().all():
        return None
    threshold = share * power_by_frequency.max()
    # The second condition counts if all powers are 0: then no frequency is key.
    above = (power_by_frequency >= threshold) & (power_by_frequency > 0)
    return [int(k) + 1 for k in above.nonzero().flatten()]


def cross_entropy(
    logits: Float[Tensor, "pair residue"], labels: Int[Tensor, " pair"]
) -> Float[Tensor, " pair"]:
    """Return -log softmax(logits)[label] in nats, exact to float64's relative precision.

    Computed as log(1 + sum over c != label of exp(l_c - l_label)): in the usual logsumexp minus the
    label's logit digits cancel, with a relative error of 1e-4 at a loss of 1e-12.
    """
    index = labels[:, None]
    others = (logits - logits.gather(1, index)).scatter(1, index, -torch.inf).logsumexp(dim=1)
    return torch.logaddexp(others, torch.zeros_like(others))  # log(1 + exp(others)), stably


def projected(
    by_answer: Float[Tensor, "answer n"], frequencies: Iterable[int]
) -> Float[Tensor, "answer n"]:
    """Return the projection of a function of the answer s on cos(w_k s) and sin(w_k s)."""
    waves = waves_of(len(by_answer), frequencies).to(by_answer.device)
    return waves.T @ (waves @ by_answer)


def answer_wave_coefficients(
    by_answer: Float[Tensor, "answer residue"],
) -> Float[Tensor, " frequency"]:
    """Return the least-squares coefficients alpha_k of logits on cos(w_k(s - c)), s the answer.

    For p - 1 pairwise orthogonal waves these are plain projections; by_answer is the mean of the
    logits over the pairs of each answer.
    """
    p = len(by_answer)
    by_difference = _sum_over_diagonals(by_answer)
    basis = fourier_basis(p).to(by_answer.device)
    # <cos(w_k d), x> / |cos(w_k d)|^2 over the p^2 cells; basis rows have norm 1 over d.
    cosines = basis[1::2]
    return (cosines @ by_difference) * cosines[:, 0] / p


def _sum_over_diagonals(table: Float[Tensor, "row column"]) -> Float[Tensor, " difference"]:
    """Return the sum of the cells with (row - column) mod p = d, for each d."""
    p = len(table)
    row = torch.arange(p, device=table.device)[:, None]
    difference = torch.arange(p, device=table.device)
    return table.gather(1, (row - difference) % p).sum(dim=0)
