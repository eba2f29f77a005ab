"""Logits as sums over the parts of the residual stream (direct logit attribution).

The final norm divides by a length that depends on the whole stream. With that length held fixed,
logits are linear in the stream, and each part of the stream has a share of every logit:

    logit(x) - mean over the vocabulary = scale <part_1 + part_2 + ..., direction(x)> + bias(x)

The mean over the vocabulary is removed, because a softmax depends on differences of logits only.
"""

from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.models.circuits import Circuits


class Readout:
    """The directions in the stream that a model's logits are read from; on the CPU, as records."""

    def __init__(self, model: Circuits) -> None:
        self.norm, self._model = model.final_norm, model
        self._mean = model.with_final_gain(model.unembedding_rows.mean(dim=0))

    def directions(self, tokens: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape d_model"]:
        """Return for each token the vector whose product with a part of the stream is its share.

        The mean that a LayerNorm subtracts from the stream is subtracted from the direction
        instead, which gives the same product.
        """
        rows = self._model.unembedding_rows[tokens.to(self._mean.device)]
        return self.norm.centred(self._model.with_final_gain(rows) - self._mean).cpu()

    @cached_property
    def _b_U(self) -> Float[Tensor, " vocabulary"]:
        return self._model.b_U

    def biases(self, tokens: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the share of the biases of final norm and unembedding in each token's logit."""
        b_U = self._b_U
        return (b_U[tokens.to(b_U.device)] - b_U.mean()).cpu()

    def scale(self, stream: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
        """Return the final norm's factor for the stream after the last block."""
        return self.norm.scale(stream)[..., 0]


def shares(
    parts: Float[Tensor, "*#batch d_model"],
    directions: Float[Tensor, "*#batch d_model"],
    scale: Float[Tensor, "*#batch"],
) -> Float[Tensor, "*#batch"]:
    """Return the share of a part of the stream in a logit."""
    return torch.linalg.vecdot(parts, directions) * scale


def head_shares(
    outputs: Float[Tensor, "*batch head d_head"],
    W_O: Float[Tensor, "head d_head d_model"],
    directions: Float[Tensor, "*batch d_model"],
    scale: Float[Tensor, "*batch"],
) -> Float[Tensor, "*batch head"]:
    """Return each head's share in a logit, from its output z before W_O."""
    # W_O is applied to the direction, not to z: d_head numbers per head instead of d_model.
    read = torch.einsum("...m,hdm->...hd", directions, W_O.cpu())
    return torch.linalg.vecdot(outputs, read) * scale[..., None]
