"""Logits as sums over the parts of the residual stream.

The final norm divides by a length that depends on the whole stream; with that length held as it
was, what reaches the logits is linear in the stream, and every part of it has its share:

    logit(x) - mean over the vocabulary = scale <part_1 + part_2 + ..., direction(x)> + bias(x)

Only differences between logits mean anything, so their mean over the vocabulary is removed.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.models.circuits import Circuits


class Readout:
    """The directions in which a model's logits are read; on the CPU, where records are."""

    def __init__(self, model: Circuits) -> None:
        self.norm = model.final_norm
        self._W_U, self._b_U = model.W_U, model.b_U
        self._mean = self._W_U.mean(dim=1)

    def directions(self, tokens: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape d_model"]:
        """Of each token the vector whose product with a part of the stream is its share.

        The mean that a LayerNorm subtracts from the stream is taken from the direction instead.
        """
        columns = self._W_U.T[tokens.to(self._W_U.device)] - self._mean
        return self.norm.centred(columns).cpu()

    def biases(self, tokens: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """What each token's centred logit has from the biases of final norm and unembedding."""
        return (self._b_U[tokens.to(self._b_U.device)] - self._b_U.mean()).cpu()

    def scale(self, stream: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
        """The final norm's factor, from the stream that leaves the last block."""
        return self.norm.scale(stream)[..., 0]


def shares(
    parts: Float[Tensor, "*#batch d_model"],
    directions: Float[Tensor, "*#batch d_model"],
    scale: Float[Tensor, "*#batch"],
) -> Float[Tensor, "*#batch"]:
    """What a part of the stream adds to a logit."""
    return torch.linalg.vecdot(parts, directions) * scale


def head_shares(
    outputs: Float[Tensor, "*batch head d_head"],
    W_O: Float[Tensor, "head d_head d_model"],
    directions: Float[Tensor, "*batch d_model"],
    scale: Float[Tensor, "*batch"],
) -> Float[Tensor, "*batch head"]:
    """What each head adds to a logit: the direction is taken back through W_O, not z through it."""
    read = torch.einsum("...m,hdm->...hd", directions, W_O.cpu())
    return torch.linalg.vecdot(outputs, read) * scale[..., None]
