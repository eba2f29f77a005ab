"""Shares of each neuron's variance over the pairs (a, b) at single frequencies."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.measures.modular import fourier

# The share from which a neuron belongs to a frequency (Nanda et al. 2023, section 4.3).
MEMBER = 0.85

# Shares that differ by less than this, relative to the largest, are equal up to rounding.
TIE = 1e-9

# Rounding of the transform: the share of a constant neuron's squared norm that ends up in
# components that are 0 in exact arithmetic.
_ROUNDING = 1e-26


@dataclass(frozen=True)
class NeuronWaves:
    """The neurons of one table by the frequency that explains most of their variance.

    shares: of a neuron's variance over all pairs in the 3 x 3 block of each frequency. NaN for a
    neuron that is constant or not finite. constant: which neurons are constant.
    """

    shares: Float[Tensor, "frequency neuron"]
    constant: Bool[Tensor, " neuron"]

    @cached_property
    def largest(self) -> Float[Tensor, " neuron"]:
        """Each neuron's largest share."""
        return self.shares.amax(dim=0)

    @cached_property
    def best(self) -> Int[Tensor, " neuron"]:
        """Index of each neuron's best frequency: of tied ones (see `TIE`) the lowest."""
        # Plain `argmax` would decide ties by rounding, which differs between machines.
        tied = self.shares >= self.largest * (1 - TIE)
        return tied.int().argmax(dim=0)

    @property
    def known(self) -> bool:
        """True if the frequency of every neuron is known, because all neurons are finite."""
        return bool((self.constant | ~self.largest.isnan()).all())

    @cached_property
    def members(self) -> Bool[Tensor, "frequency neuron"]:
        """The neurons of each frequency: its share is their largest, and at least `MEMBER`."""
        frequency = torch.arange(len(self.shares), device=self.shares.device)
        return (frequency[:, None] == self.best) & (self.largest >= MEMBER)

    @property
    def key_frequencies(self) -> list[int] | None:
        """The frequencies (from 1) that a neuron belongs to; None where a neuron is not finite."""
        if not self.known:
            return None
        return [int(k) + 1 for k in self.members.any(dim=1).nonzero().flatten()]


def neuron_waves(neurons: Float[Tensor, "pair neuron"], p: int) -> NeuronWaves:
    """Return the shares of the neurons' variance that are in the block of each frequency.

    The block {1, cos w_k a, sin w_k a} x {1, cos w_k b, sin w_k b} without its constant: the
    polynomials of degree 2 in the waves of one frequency.
    """
    basis = fourier.fourier_basis(p).to(neurons.device)
    over_a = (basis @ neurons.reshape(p, -1)).view(p, p, -1)  # [component, b, neuron]
    constant, constant_in_a = (basis @ over_a[0]).square().split([1, p - 1])
    blocks, variance = fourier.pairwise_sum(constant_in_a), constant_in_a.sum(dim=0)
    # A loop, because the full transform [component, component, neuron] is as large as the table of
    # neurons, and only its blocks on the diagonal are needed.
    for k in range(1, fourier.n_frequencies(p) + 1):
        waves = slice(2 * k - 1, 2 * k + 1)  # one row where p is even and k = p / 2
        block = torch.cat([basis[:1], basis[waves]]) @ over_a[waves]
        blocks[k - 1] += block.square().sum(dim=(0, 1))
        variance += over_a[waves].square().sum(dim=(0, 1))
    is_constant = variance <= _ROUNDING * constant[0]
    return NeuronWaves(torch.where(is_constant, torch.nan, blocks / variance), is_constant)
