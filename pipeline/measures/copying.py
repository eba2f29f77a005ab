"""Copying in a head's weights: the eigenvalue score of its OV circuit."""

from collections.abc import Collection

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.engine.threads import in_threads, threads_on
from pipeline.engine.vocabulary_products import over_the_vocabulary
from pipeline.measures.base import Context, Measure, Setting
from pipeline.models.assumptions import EMBEDDING, LOGITS, OV, STREAM
from pipeline.models.circuits import weights_of_circuits
from pipeline.models.decompositions import eigenvalues
from pipeline.schema import Variable

_ELHAGE = "Elhage et al. 2021, A Mathematical Framework for Transformer Circuits"
_HEAD = ("step", "layer", "head")


class Copying(Measure):
    """Copying score of every head, from the eigenvalues of its full OV circuit.

        score = sum_i Re(lambda_i) / sum_i |lambda_i|,   lambda = eigenvalues of W_E W_V W_O W_U

    1 where every token raises its own logit (in the sense that all eigenvalues are positive), -1
    where it lowers it. The gains of the layer's norm and of the final norm are folded into W_V and
    W_U; biases, the means that LayerNorm subtracts, and other layers are left out.

    The matrix is vocabulary x vocabulary, but its non-zero eigenvalues are those of the
    d_head x d_head matrix W_O (W_U W_E) W_V, which is the only one that is formed.

    `ov_copying_centred` has the mean over the vocabulary removed from every row of W_U: logits
    matter only relative to each other. Otherwise any component that all embeddings and all
    unembeddings share scores as copying (heads with random weights reach 0.8); centred scores of
    random heads scatter around 0. Neither decides a label: `head_labels` uses the effect of a head
    on its input, from `behavioural_copying`.

    NaN where all eigenvalues are 0 (a head that writes nothing), and for model families whose
    circuits are not defined (see `pipeline.models.circuits`).
    Departure from the paper: every row of W_E counts, those of special and padding tokens too.
    """

    name = "copying"
    version = 2
    default_input = None
    needs_heads = True
    variables = (
        Variable("ov_copying", _HEAD, "1",
                 "Sum of the real parts of the OV circuit's eigenvalues over the sum of their "
                 "moduli.", _ELHAGE),
        Variable("ov_copying_centred", _HEAD, "1",
                 "The same with the unembedding's mean over the vocabulary removed.", _ELHAGE),
    )  # fmt: skip
    relies_on = dict.fromkeys(
        ("ov_copying", "ov_copying_centred"), EMBEDDING | OV | STREAM | LOGITS
    )

    def weights_read(self, setting: Setting) -> Collection[str]:
        """Return those of the OV circuits, the embedding and the unembedding."""
        layers = range(setting.model.n_layers)
        return weights_of_circuits(
            setting.model, values_outputs=layers, embedding=True, unembedding=True
        )

    def compute(self, context: Context) -> dict[str, np.ndarray]:
        model = context.circuits
        product = over_the_vocabulary(model.unembedding_rows, model.W_E)
        scores = []
        for heads in map(model.layer, range(model.n_layers)):
            written = model.with_final_gain(heads.W_O.double())
            scores.append(eigenvalue_score(product.between(written, heads.W_V)))
        raw, centred = torch.stack(scores, dim=1).numpy()
        return {"ov_copying": raw, "ov_copying_centred": centred}


def eigenvalue_score(matrices: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch"]:
    """Return the sum of the eigenvalues' real parts over that of their moduli.

    NaN where all are 0, and for a matrix that is not finite.
    """
    matrices = matrices.double().cpu()  # eigenvalues of small matrices are fastest on the CPU
    trace = matrices.diagonal(dim1=-2, dim2=-1).sum(-1)  # the sum of the eigenvalues
    # torch computes the matrices of a batch one after another, in one thread.
    parts = matrices.reshape(-1, *matrices.shape[-2:]).tensor_split(threads_on(matrices.device))
    values = torch.cat(in_threads(eigenvalues, parts, matrices.device))
    # A matrix of zeros gives 0 / 0, and so NaN.
    return trace / values.abs().sum(-1).view(trace.shape)
