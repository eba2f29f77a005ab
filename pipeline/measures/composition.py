"""K-, Q- and V-composition of heads, from the weights."""

from collections.abc import Collection

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.measures.base import Context, Measure, Setting
from pipeline.models.assumptions import MATRICES, OV, QK, STREAM, relying
from pipeline.models.circuits import Heads, weights_of_circuits
from pipeline.schema import Variable

_ELHAGE = "Elhage et al. 2021, A Mathematical Framework for Transformer Circuits"
_PAIR = ("step", "layer_from", "head_from", "layer_to", "head_to")
_PATHS = ("k", "q", "v")


class Composition(Measure):
    """K-, Q- and V-composition of every pair of heads, from the weights.

        |W_OV(from) X|_F / (|W_OV(from)|_F |X|_F),    W_OV = W_V W_O,    W_QK = W_Q W_K^T

    with X = W_QK(to)^T for `k`, W_QK(to) for `q`, W_OV(to) for `v` (row vectors times matrices:
    the earlier head's output x W_OV is what the later head's matrix reads). In [0, 1]. The gains of
    the layers' norms are folded in. Models with rotary positions rotate queries and keys between
    W_Q and W_K; this is W_QK without the rotation.

    `k_baseline`, `q_baseline`, `v_baseline`: the ratio for independent random matrices of this
    shape, 1 / sqrt(d_model). It is exact as the root mean square over random rotations of X against
    W_OV, whatever the matrices' spectra; the mean over Gaussian factors is 0.2% below it at
    d_model 64, d_head 16, and nearer for larger models. The raw values are stored beside it;
    subtract to get the paper's quantity. (It depends on shapes only, so that it is the same for all
    pairs and all three paths; it is stored beside every value so that no reader must know that.)

    NaN where layer_to <= layer_from; for a head without any output (0 / 0); for model families
    whose circuits are not defined (see `pipeline.models.circuits`).
    """

    name = "composition"
    version = 2
    default_input = None
    needs_heads = True
    variables = tuple(
        Variable(f"{path}", _PAIR, "1",
                 f"{path.upper()}-composition: how much of the later head's {reads} matrix reads "
                 "the earlier head's output.", _ELHAGE)
        for path, reads in zip(_PATHS, ("key", "query", "value"), strict=True)
    ) + tuple(
        Variable(f"{path}_baseline", _PAIR, "1",
                 f"{path.upper()}-composition of random matrices of the same shape.", _ELHAGE)
        for path in _PATHS
    )  # fmt: skip
    relies_on = relying(
        k=OV | STREAM | QK, q=OV | STREAM | QK, v=OV | STREAM,
        k_baseline=MATRICES, q_baseline=MATRICES, v_baseline=MATRICES,
    )  # fmt: skip

    def why_undefined(self, setting: Setting) -> str:
        """Return the reason that holds for models with one layer."""
        return why_no_earlier_layer(self, setting)

    def weights_read(self, setting: Setting) -> Collection[str]:
        """Return those of the heads; in the first layer, which reads no other, what they write."""
        layers = setting.model.attention_layers
        return weights_of_circuits(setting.model, layers[1:], layers)

    def compute(self, context: Context) -> dict[str, np.ndarray]:
        model = context.circuits
        shape = (model.n_layers, model.n_heads) * 2
        values = {variable.name: np.full(shape, np.nan) for variable in self.variables}
        baseline = model.d_model**-0.5
        writers: dict[int, Float[Tensor, "head d_head d_model"]] = {}
        for layer_to in context.model.attention_layers:
            heads = model.layer(layer_to)
            readers = readers_of(heads) if writers else {}
            # Heads of one layer do not read each other: only earlier layers are writers.
            for layer_from, writer in writers.items():
                for path in _PATHS:
                    values[path][layer_from, :, layer_to] = ratios(writer, readers[path]).cpu()
                    values[f"{path}_baseline"][layer_from, :, layer_to] = baseline
            writers[layer_to] = writer_of(heads)
        return values


def why_no_earlier_layer(measure: Measure, setting: Setting) -> str:
    """Return why variables that relate a head to an earlier one are NaN; "" with two layers."""
    names = ", ".join(one.name for one in measure.variables if one.dtype.startswith("float"))
    model = setting.model
    layer = "layer with attention" if model.without_attention else "layer"
    alone = f"NaN, because the model has one {layer}, and so no head of an earlier layer"
    return f"{names}: {alone}" if len(model.attention_layers) == 1 else ""


def writer_of(heads: Heads) -> Float[Tensor, "head d_head d_model"]:
    """Return for each head a matrix `writer` with |W_OV M| / |W_OV| = |writer M|; NaN for W_OV = 0.

    With the QR factors of W_V = Q R, |Q R W_O M| = |R W_O M|: d_head rows instead of d_model.
    """
    return unit(triangle(heads.W_V) @ heads.W_O)


def readers_of(heads: Heads) -> dict[str, Float[Tensor, "head d_model d_head"]]:
    """Return for each path and head a matrix `reader` with |M X| / |X| = |M reader|."""
    factors = {
        "k": (heads.W_K, heads.W_Q),
        "q": (heads.W_Q, heads.W_K),
        "v": (heads.W_V, heads.W_O.mT),
    }
    return {path: unit(left @ triangle(right).mT) for path, (left, right) in factors.items()}


def ratios(
    writer: Float[Tensor, "head_from d_head d_model"],
    reader: Float[Tensor, "head_to d_model d_head"],
) -> Float[Tensor, "head_from head_to"]:
    """Return |writer reader|_F of all pairs, from one matrix product."""
    # In this order of axes it is one matrix product, of all writers' rows and readers' columns.
    products = torch.einsum("fik,tkj->fitj", writer, reader)
    return torch.linalg.vector_norm(products, dim=(1, 3))


def triangle(matrix: Float[Tensor, "head rows columns"]) -> Float[Tensor, "head columns columns"]:
    """Return R of matrix = Q R, which has the matrix's norms and singular values in fewer rows."""
    return torch.linalg.qr(matrix, mode="r").R


def unit(matrix: Float[Tensor, "head rows columns"]) -> Float[Tensor, "head rows columns"]:
    """Return each matrix divided by its norm; NaN where the norm is 0, or overflows its dtype."""
    norm = torch.linalg.matrix_norm(matrix, keepdim=True)
    return matrix / norm.where((norm > 0) & norm.isfinite(), torch.nan)
