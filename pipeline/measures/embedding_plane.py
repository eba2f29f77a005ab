"""The principal plane of the final embedding, and the residues in it at every step."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.engine.record import Pass
from pipeline.measures.base import Context, Reference, Setting
from pipeline.measures.modular.table import TableMeasure
from pipeline.models.residues import residue_weights
from pipeline.models.weights import Weights
from pipeline.schema import Variable


class EmbeddingPlane(TableMeasure):
    """Coordinates of the residues in the plane of largest variance of the final embedding.

    The plane is spanned by the first two principal components of the last checkpoint's W_E (rows
    0 .. p-1, centred, float64), each signed so that its largest entry is positive. With
    z[x] = first[x] + i second[x] and its Fourier transform Z over the residues:

    - `first[x]`, `second[x]`: coordinates there of residue x at each step, W_E centred.
    - `variance_share`: the share of the step's W_E variance that is in the plane.
    - `circularity`: max over k of |Z_k|^2 / sum over k of |Z_k|^2, k != 0: 1 where the residues go
      round a circle in equal steps of k, about log(p) / p at random; invariant under rotation.
    - `circle_frequency`: that k, as the smaller of k and p - k.

    NaN where the embedding has no variance (in the plane), and where the last checkpoint's W_E is
    not finite. The two components of one frequency have almost equal variance, so the axes are
    defined up to a rotation only, while the plane is unique.
    """

    name = "embedding_plane"
    version = 2
    reference_from = "last"
    variables = (
        Variable("first", ("step", "residue"), "1",
                 "Residue's coordinate on the final embedding's first principal component.",
                 dtype="float64"),
        Variable("second", ("step", "residue"), "1",
                 "Residue's coordinate on the final embedding's second principal component.",
                 dtype="float64"),
        Variable("variance_share", ("step",), "1",
                 "Share of the embedding's variance in that plane.", dtype="float64"),
        Variable("circularity", ("step",), "1",
                 "How nearly the residues go round a circle in that plane, 0 to 1.",
                 dtype="float64"),
        Variable("circle_frequency", ("step",), "1",
                 "The frequency at which they go round it."),
    )  # fmt: skip

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """Return no pass: the measure reads weights only."""
        return ()

    def reference(self, context: Context) -> Reference:
        embedding = _centred_embedding(context.weights)
        if not embedding.isfinite().all():  # for which `svd` raises
            return {"axes": None, "undefined": "W_E of the last checkpoint is not finite"}
        _, _, components = torch.linalg.svd(embedding, full_matrices=False)
        axes = components[:2]
        # The sign of a principal component is arbitrary, and may differ between machines.
        largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
        return {"axes": (axes * largest.sign()).tolist()}

    def compute(self, context: Context) -> dict[str, np.ndarray]:
        embedding = _centred_embedding(context.weights)
        axes = embedding.new_full((2, embedding.shape[1]), torch.nan)
        if (last := context.reference["axes"]) is not None:
            axes = torch.tensor(last, dtype=torch.float64, device=embedding.device)
        plane = embedding @ axes.T
        circularity, frequency = circle(plane)
        values = {
            "first": plane[:, 0],
            "second": plane[:, 1],
            "variance_share": plane.square().sum() / embedding.square().sum(),
            "circularity": circularity,
            "circle_frequency": frequency,
        }
        return {name: value.cpu().numpy() for name, value in values.items()}


def circle(
    plane: Float[Tensor, "residue 2"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the circularity of a closed polygon in the plane, and its dominant frequency."""
    # Without k = 0, which is 0 for centred residues; k and p - k differ in the sense of rotation.
    power = torch.fft.fft(torch.complex(plane[:, 0], plane[:, 1])).abs().square()[1:]
    best = power.argmax() + 1
    share = power.max() / power.sum()
    frequency = torch.minimum(best, len(plane) - best).double()
    return share, torch.where(share.isnan(), torch.nan, frequency)


def _centred_embedding(weights: Weights) -> Float[Tensor, "residue d_model"]:
    W_E = residue_weights(weights).W_E
    return W_E - W_E.mean(dim=0)
