"""Prefix matching in the weights: the eigenvalue score of the QK circuit of a pair of heads."""

from collections.abc import Collection

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.engine.vocabulary_products import over_the_vocabulary
from pipeline.measures.base import Context, Measure, Setting
from pipeline.measures.composition import ratios, triangle, unit, why_no_earlier_layer
from pipeline.measures.copying import eigenvalue_score
from pipeline.models.assumptions import EMBEDDING, OV, QK, STREAM
from pipeline.models.circuits import Heads, weights_of_circuits
from pipeline.schema import Variable

_ELHAGE = "Elhage et al. 2021, A Mathematical Framework for Transformer Circuits"
_HEAD = ("step", "layer", "head")


class QKPrefixMatching(Measure):
    """Prefix matching of a pair of heads, from the eigenvalues of their joint QK circuit.

        score = sum_i Re(lambda_i) / sum_i |lambda_i|,
        lambda = eigenvalues of W_E W_QK(to) W_OV(from)^T W_E^T

    The matrix gives the attention score of a query token x for a key into which the earlier head
    wrote token y. Positive eigenvalues mean that x prefers y = x: where the earlier head attends
    to the previous token, the pair attends to the successors of earlier occurrences of x, and is an
    induction pair. From -1 to 1. Only d_head x d_head matrices are formed, with the same non-zero
    eigenvalues; gains of the norms are folded in, rotary positions and biases left out.

    Every later head is scored with ONE earlier head: the one with which its K-composition is
    strongest (see `composition`), named in `partner_layer` and `partner_head`. That keeps the cost
    linear in the number of heads, and avoids a maximum over the scores themselves.

    `score_centred` has the mean over the vocabulary removed from the embeddings of the keys:
    softmax depends on differences of scores only, and a component that all embeddings share would
    score as matching. For random weights it scatters around 0.

    NaN (the partner: -1) for heads of the first layer, for heads without output or queries, for
    model families whose circuits are not defined (see `pipeline.models.circuits`), and where a
    non-finite weight makes the choice of the partner uncertain.
    """

    name = "qk_prefix_matching"
    version = 1
    default_input = None
    needs_heads = True
    variables = (
        Variable("score", _HEAD, "1",
                 "Sum of the real parts of the eigenvalues of the QK circuit with the strongest "
                 "K-composing earlier head, over the sum of their moduli.", _ELHAGE),
        Variable("score_centred", _HEAD, "1",
                 "The same with the mean over the vocabulary removed from the keys.", _ELHAGE),
        Variable("partner_layer", _HEAD, "1", "Layer of that earlier head.", dtype="int32"),
        Variable("partner_head", _HEAD, "1", "That earlier head, within its layer.",
                 dtype="int32"),
    )  # fmt: skip
    relies_on = dict.fromkeys(
        ("score", "score_centred", "partner_layer", "partner_head"), EMBEDDING | OV | STREAM | QK
    )

    def why_undefined(self, setting: Setting) -> str:
        """Return the reason that holds for models with one layer."""
        return why_no_earlier_layer(self, setting)

    def weights_read(self, setting: Setting) -> Collection[str]:
        """Return those of the earlier heads' output, the later heads' scores, and the embedding."""
        layers = setting.model.attention_layers
        return weights_of_circuits(setting.model, layers[1:], layers[:-1], embedding=True)

    def compute(self, context: Context) -> dict[str, np.ndarray]:
        shape = context.model.n_layers, context.model.n_heads
        values = {name: np.full(shape, np.nan) for name in ("score", "score_centred")}
        values |= {name: np.full(shape, -1) for name in ("partner_layer", "partner_head")}
        model = context.circuits
        embedding = model.W_E
        product = over_the_vocabulary(embedding, embedding)
        first, *later = layers = context.model.attention_layers
        earlier = [_Earlier(model.layer(first))]
        for layer in later:
            heads = model.layer(layer)
            found = strongest_partners(earlier, heads).cpu().numpy()
            of_layers = np.array(layers)[found // model.n_heads]
            values["partner_layer"][layer] = np.where(found < 0, -1, of_layers)
            values["partner_head"][layer] = np.where(found < 0, -1, found % model.n_heads)
            partners = [(earlier[i // model.n_heads], i % model.n_heads) for i in found.tolist()]
            W_V = torch.stack([one.W_V[head] for one, head in partners]).double()
            W_O = torch.stack([one.W_O[head] for one, head in partners]).double()
            # A product of matrices and its cyclic permutations have the same non-zero eigenvalues.
            written_keys = heads.W_K.double().mT @ W_O.mT @ W_V.mT
            scores = eigenvalue_score(product.between(written_keys, heads.W_Q)).numpy()
            score, centred = np.where(found < 0, np.nan, scores)
            values["score"][layer], values["score_centred"][layer] = score, centred
            earlier.append(_Earlier(heads))
        return values


class _Earlier:
    """The parts that later heads read of one layer's heads.

    writer: see `composition.writer_of`. silent: which heads have no output.
    """

    def __init__(self, heads: Heads) -> None:
        self.W_V, self.W_O = heads.W_V, heads.W_O
        output = triangle(heads.W_V) @ heads.W_O
        self.writer, self.silent = unit(output), _are_zero(output)


def strongest_partners(earlier: list[_Earlier], heads: Heads) -> Int[Tensor, " head"]:
    """Return for each head the earlier one of largest K-composition, counted through `earlier`.

    Heads without output have none. -1 for a head without queries or keys, where all earlier heads
    are without output, and where the largest is unknown because a number is not finite.
    """
    read = heads.W_K @ triangle(heads.W_Q).mT
    reader = unit(read)
    k_composition = torch.cat([ratios(one.writer, reader) for one in earlier])
    silent = torch.cat([one.silent for one in earlier])
    undefined = silent[:, None] | _are_zero(read)
    hidden = (k_composition.isnan() & ~undefined).any(dim=0)
    # Below every K-composition, which is not negative.
    strongest = k_composition.where(~undefined, -1).argmax(dim=0)
    return strongest.where(~hidden & ~undefined.all(dim=0), -1)


def _are_zero(matrices: Float[Tensor, "head rows columns"]) -> Bool[Tensor, " head"]:
    return (matrices == 0).all(dim=-1).all(dim=-1)
