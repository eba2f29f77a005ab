"""The squared norm of the weights, which weight decay penalises."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from pydantic import model_serializer

from pipeline.engine.threads import in_threads
from pipeline.errors import InputError
from pipeline.measures.base import Context, Measure, Setting
from pipeline.models.facts import ModelFacts
from pipeline.schema import Values, Variable

_NANDA = "Nanda et al. 2023, Progress measures for grokking via mechanistic interpretability"

# The names of submodules, in transformers' families, whose parameters belong to a part of a model.
_MODULES = {
    "attention": {"attn", "attention", "self_attn", "self_attention"},
    "mlp": {"mlp", "block_sparse_moe", "fc1", "fc2"},
    "embeddings": {
        "embed_tokens", "embed_positions", "embed_in", "embed_out", "wte", "wpe",
        "word_embeddings", "lm_head",
    },
}  # fmt: skip

_DEFAULT = ("of", "all")

# Numbers that are squared at a time.
_NUMBERS = {"cpu": 1 << 16, "cuda": 1 << 24}


class WeightNorm(Measure):
    """Sum of squares of the weights, per parameter tensor and in all.

        by_parameter[w] = sum_i w_i^2        sum_of_squares = sum_w by_parameter[w]

    The weights are those of the checkpoint as saved, summed in float64; a tensor shared by two
    names (tied embeddings) is one parameter and counts once.

    `of` chooses a part of the model, and no other weights are then read: `attention`, `mlp` or
    `embeddings` (token and position embeddings and the output embedding), by the names of the
    submodules in transformers: `self_attn`, `attention` or `attn` (with norms of queries and keys
    in it); `mlp`, `block_sparse_moe`, `fc1` or `fc2`. Refused for a model without such a submodule.
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

    of: Literal["all", "attention", "mlp", "embeddings"] = "all"

    @model_serializer(mode="wrap")
    def _without_default(self, serialise: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        # Rows are identified by the parameters: those that were stored before there was `of` stay.
        parameters = serialise(self).items()
        return {name: value for name, value in parameters if (name, value) != _DEFAULT}

    def check(self, setting: Setting) -> None:
        """Raise InputError for a part that the model lacks."""
        if setting.model.parameters and not self.weights_read(setting):
            raise InputError(
                f"measure {self.name!r}: a {setting.model.architecture} has no weights of a "
                f"submodule named {' or '.join(sorted(_MODULES[self.of]))}, expected some for "
                f"`of: {self.of}`: leave `of` out"
            )

    def weights_read(self, setting: Setting) -> tuple[str, ...]:
        """Return those of the chosen part."""
        return _parameters_of(self.of, setting.model)

    def coordinates(self, setting: Setting) -> dict[str, np.ndarray]:
        """Return the names of the parameters of the chosen part."""
        return {"parameter": np.array(self.weights_read(setting))}

    def computed_in(self, setting: Setting, dtype: str) -> str:
        """Return float64, in which squares are summed, whatever the dtype of the weights."""
        return "float64"

    def compute(self, context: Context) -> Values:
        names = self.weights_read(context.setting)
        tensors = [context.weights[name] for name in names]
        device = tensors[0].device if tensors else torch.device("cpu")
        sums = in_threads(_sum_of_squares, tensors, device)
        by_parameter = torch.stack(sums).cpu().numpy() if sums else np.zeros(0)
        return {"by_parameter": by_parameter, "sum_of_squares": by_parameter.sum()}


def _parameters_of(part: str, model: ModelFacts) -> tuple[str, ...]:
    if part == "all":
        return model.parameters
    return tuple(name for name in model.parameters if _MODULES[part] & set(name.split(".")))


def _sum_of_squares(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of squares in float64, on the tensor's device."""
    # By parts that stay in the processor's cache: float64 copies of them cost little there, and
    # reductions of torch that convert each number on its own take ten times as long.
    parts = tensor.flatten().split(_NUMBERS["cuda" if tensor.is_cuda else "cpu"])
    sums = [torch.dot(part, part) for part in (part.double() for part in parts)]
    return torch.stack(sums).sum() if sums else tensor.new_zeros((), dtype=torch.float64)
