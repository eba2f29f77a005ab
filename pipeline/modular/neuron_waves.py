"""How much of each neuron's activation over the pairs (a, b) waves of one frequency make up."""

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.modular import fourier

# The share from which a neuron counts as one of a frequency's (Nanda et al. 2023, section 4.3).
MEMBER = 0.85

# What the transform leaves of a constant neuron's square in components that should vanish.
_ROUNDING = 1e-26


def frequency_shares(
    neurons: Float[Tensor, "pair neuron"], p: int
) -> Float[Tensor, "frequency neuron"]:
    """Share of a neuron's variance over all pairs in the 3 x 3 block of each frequency.

    The block {1, cos w_k a, sin w_k a} x {1, cos w_k b, sin w_k b} without its constant: the
    polynomials of degree 2 in the waves of one frequency. NaN for a neuron that is constant.
    """
    basis = fourier.fourier_basis(p).to(neurons.device)
    over_a = (basis @ neurons.reshape(p, -1)).view(p, p, -1)  # [component, b, neuron]
    constant, constant_in_a = (basis @ over_a[0]).square().split([1, p - 1])
    blocks, variance = fourier.pairwise_sum(constant_in_a), constant_in_a.sum(dim=0)
    for k in range(1, fourier.n_frequencies(p) + 1):
        waves = slice(2 * k - 1, 2 * k + 1)  # one row where p is even and k = p / 2
        block = torch.cat([basis[:1], basis[waves]]) @ over_a[waves]
        blocks[k - 1] += block.square().sum(dim=(0, 1))
        variance += over_a[waves].square().sum(dim=(0, 1))
    varies = variance > _ROUNDING * constant[0]
    return torch.where(varies, blocks / variance, torch.nan)


def key_frequencies_by_clusters(shares: Float[Tensor, "frequency neuron"]) -> list[int]:
    """The frequencies that at least one neuron belongs to."""
    return [int(k) + 1 for k in cluster_sizes(shares).nonzero().flatten()]


def members(shares: Float[Tensor, "frequency neuron"]) -> Float[Tensor, "frequency neuron"]:
    """Which neuron belongs to which frequency: its best one, where the share reaches `MEMBER`."""
    best = shares.nan_to_num(-1).max(dim=0)
    own = torch.arange(len(shares), device=shares.device)[:, None] == best.indices
    return own & (best.values >= MEMBER)


def cluster_sizes(shares: Float[Tensor, "frequency neuron"]) -> Float[Tensor, " frequency"]:
    """How many neurons belong to each frequency."""
    return members(shares).sum(dim=1)
