"""Effective rank: the number of directions that the circuits of each head use."""

from collections.abc import Collection

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.measures.base import Context, Measure, Setting
from pipeline.measures.composition import triangle
from pipeline.models import decompositions
from pipeline.models.assumptions import EMBEDDING, LOGITS, OV, QK, relying
from pipeline.models.circuits import Circuits, weights_of_circuits
from pipeline.schema import Variable

_ROY = "Roy and Vetterli 2007, The effective rank: a measure of effective dimensionality"
_HEAD = ("step", "layer", "head")


class EffectiveRank(Measure):
    """Effective rank of every head's OV and QK matrix, and of the direct path W_E W_U.

        effective rank = exp(-sum_i p_i log p_i),    p_i = s_i / sum_j s_j

    with s the singular values of W_V W_O (`ov`), W_Q W_K^T (`qk`) and W_E W_U
    (`embedding_unembedding`). Between 1 and the rank: d_head for a head, d_model for the direct
    path. The gains of the norms are folded in; `qk` is without rotary positions. Singular values of
    the direct path below 1e-7 of the largest are rounding errors, too small to affect the result.

    NaN where the matrix is 0, and for model families whose circuits are not defined (see
    `pipeline.models.circuits`).
    """

    name = "effective_rank"
    version = 2
    default_input = None
    needs_heads = True
    variables = (
        Variable("ov", _HEAD, "1", "Effective rank of W_V W_O.", _ROY),
        Variable("qk", _HEAD, "1", "Effective rank of W_Q W_K^T.", _ROY),
        Variable("embedding_unembedding", ("step",), "1", "Effective rank of W_E W_U.", _ROY),
    )
    relies_on = relying(ov=OV, qk=QK, embedding_unembedding=EMBEDDING | LOGITS)

    def weights_read(self, setting: Setting) -> Collection[str]:
        """Return those of the heads, the embedding and the unembedding."""
        layers = range(setting.model.n_layers)
        return weights_of_circuits(setting.model, layers, layers, embedding=True, unembedding=True)

    def compute(self, context: Context) -> dict[str, np.ndarray]:
        model = context.circuits
        layers = [model.layer(layer) for layer in range(model.n_layers)]
        ov = [effective_rank(singular_values(h.W_V, h.W_O.mT)) for h in layers]
        qk = [effective_rank(singular_values(h.W_Q, h.W_K)) for h in layers]
        direct = effective_rank(_direct_singular_values(model))
        shape = model.n_layers, model.n_heads  # a model of no layers has nothing to stack
        return {
            "ov": np.array([of.numpy() for of in ov]).reshape(shape),
            "qk": np.array([of.numpy() for of in qk]).reshape(shape),
            "embedding_unembedding": direct.numpy(),
        }


def singular_values(
    left: Float[Tensor, "head d_model d_head"], right: Float[Tensor, "head d_model d_head"]
) -> Float[Tensor, "head d_head"]:
    """Return the singular values of left right^T that can differ from 0.

    They are those of a d_head x d_head matrix, from the QR factors of both sides.
    """
    return decompositions.singular_values((triangle(left) @ triangle(right).mT).cpu())


def effective_rank(values: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Return exp of the entropy of the values' shares of their sum; NaN where all are 0."""
    shares = values.double() / values.double().sum(-1, keepdim=True)
    return torch.special.entr(shares).sum(-1).exp()


def _direct_singular_values(model: Circuits) -> Float[Tensor, " d_model"]:
    """Return the singular values of W_E W_U, from two d_model x d_model Gram matrices.

    The squares of the singular values are the eigenvalues of S G_U S^T, where S^T S = G_E. In
    float64, because a Gram matrix squares the condition number.
    """
    of_embedding, of_unembedding = _gram(model.W_E), _gram(model.W_U.mT)
    if not of_embedding.isfinite().all():  # for which `eigh` raises
        return torch.full((model.d_model,), torch.nan, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(of_embedding)
    # Eigenvalues of a Gram matrix are not negative; rounding may make some of them so.
    root = values.clamp(min=0).sqrt()[:, None] * vectors.mT
    squares = decompositions.eigenvalues_of_symmetric(root @ of_unembedding @ root.mT)
    return squares.clamp(min=0).sqrt().cpu()


def _gram(
    rows: Float[Tensor, "vocabulary d_model"], at_a_time: int = 8192
) -> Float[Tensor, "d_model d_model"]:
    """Return rows^T rows in float64, without a float64 copy of all rows."""
    gram = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64, device=rows.device)
    for part in rows.split(at_a_time):
        gram.addmm_(part.mT.double(), part.double())
    return gram
