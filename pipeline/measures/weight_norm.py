"""The squared norm of the weights, which weight decay penalises."""

import numpy as np
import torch

from pipeline.measures.base import Context, Measure, Setting
from pipeline.schema import Values, Variable

_NANDA = "Nanda et al. 2023, Progress measures for grokking via mechanistic interpretability"


class WeightNorm(Measure):
    """Sum of squares of the weights, per parameter tensor and in all.

        by_parameter[w] = sum_i w_i^2        sum_of_squares = sum_w by_parameter[w]

    The weights are those of the checkpoint as saved, summed in float64; a tensor shared by two
    names (tied embeddings) is one parameter and counts once.
    """

    name = "weight_norm"
    version = 1
    default_input = None
    variables = (
        Variable("sum_of_squares", ("step",), "1", "Sum of squares of all weights.", _NANDA,
                 dtype="float64"),
        Variable("by_parameter", ("step", "parameter"), "1",
                 "Sum of squares of each parameter tensor.", _NANDA, dtype="float64"),
    )  # fmt: skip

    def computed_in(self, setting: Setting, dtype: str) -> str:
        """Return float64, in which squares are summed, whatever the dtype of the weights."""
        return "float64"

    def compute(self, context: Context) -> Values:
        by_parameter = np.array([_sum_of_squares(tensor) for tensor in context.weights.values()])
        return {"by_parameter": by_parameter, "sum_of_squares": by_parameter.sum()}


def _sum_of_squares(tensor: torch.Tensor) -> float:
    # `vector_norm` accumulates in float64 without a float64 copy of the tensor. The norm is
    # multiplied by itself, because Python's power raises OverflowError for an infinite square.
    norm = float(torch.linalg.vector_norm(tensor, dtype=torch.float64))
    return norm * norm
