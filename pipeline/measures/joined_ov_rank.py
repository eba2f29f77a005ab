"""Effective rank of the OV circuits of several heads together."""

from collections.abc import Collection

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from pipeline.measures.base import Context, Measure, Setting
from pipeline.measures.composition import triangle
from pipeline.measures.effective_rank import effective_rank
from pipeline.measures.head_ablation import chosen_heads, refuse_absent
from pipeline.models import decompositions
from pipeline.models.assumptions import OV, relying
from pipeline.models.circuits import Circuits, weights_of_circuits
from pipeline.schema import Variable

_ROY = "Roy and Vetterli 2007, The effective rank: a measure of effective dimensionality"


class JoinedOVRank(Measure):
    """Effective rank of the OV circuits of several heads together.

        sum      of W_OV[1] + ... + W_OV[n]
        stacked  of W_OV[1] above ... above W_OV[n], a matrix of n d_model rows
        largest  the largest of the n heads alone

    with W_OV = W_V W_O and the effective rank of `effective_rank`. `sum` is what heads do that
    attend to the same token, as induction heads do: one map from its stream to the output.
    `stacked` is what heads do that attend to different tokens: the directions that they write. The
    gains of the norms are folded in. Between 1 and the smaller of d_model and n d_head, while that
    of one head is at most d_head: joining raises it unless the heads use the same directions.

    `heads` lists the heads as [layer, head]; without it, all of the model. NaN where the matrix is
    0, and for model families whose circuits are not defined (see `pipeline.models.circuits`).
    """

    name = "joined_ov_rank"
    version = 1
    default_input = None
    needs_heads = True
    variables = (
        Variable("sum", ("step",), "1", "Effective rank of the sum of W_V W_O.", _ROY),
        Variable("stacked", ("step",), "1", "Effective rank of all W_V W_O, stacked.", _ROY),
        Variable("largest", ("step",), "1", "Largest effective rank of a single W_V W_O.", _ROY),
    )
    relies_on = relying(sum=OV, stacked=OV, largest=OV)

    heads: tuple[tuple[int, int], ...] | None = Field(None, min_length=1)

    def check(self, setting: Setting) -> None:
        """Raise InputError for heads that the model lacks."""
        refuse_absent(self.name, self.heads or (), setting.model)

    def weights_read(self, setting: Setting) -> Collection[str]:
        """Return those of the OV circuits in the layers with such a head."""
        layers = {layer for layer, _ in chosen_heads(self.heads, setting.model)}
        return weights_of_circuits(setting.model, values_outputs=layers)

    def compute(self, context: Context) -> dict[str, np.ndarray]:
        heads = dict.fromkeys(chosen_heads(self.heads, context.model))  # each once
        W_V, W_O = _matrices(context.circuits, tuple(heads))
        # W_V W_O = Q R W_O with orthonormal Q, so that R W_O has the singular values of W_V W_O.
        rows = triangle(W_V) @ W_O
        # W_V[1] W_O[1] + ... is the product of the matrices side by side and above one another.
        wide, tall = W_V.transpose(0, 1).flatten(1), W_O.flatten(0, 1)
        return {
            "sum": _rank(torch.linalg.qr(wide, mode="r").R @ tall),
            "stacked": _rank(rows.flatten(0, 1)),
            "largest": np.max([_rank(of_head) for of_head in rows]),
        }


def _matrices(
    model: Circuits, heads: tuple[tuple[int, int], ...]
) -> tuple[Float[Tensor, "head d_model d_head"], Float[Tensor, "head d_head d_model"]]:
    """Return W_V and W_O of the heads, in their order."""
    layers = {layer: model.layer(layer) for layer in sorted({layer for layer, _ in heads})}
    return (
        torch.stack([layers[layer].W_V[head] for layer, head in heads]),
        torch.stack([layers[layer].W_O[head] for layer, head in heads]),
    )


def _rank(matrix: Float[Tensor, "rows columns"]) -> np.ndarray:
    return effective_rank(decompositions.singular_values(matrix.cpu())).numpy()
