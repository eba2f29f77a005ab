"""Products of activations with weights, by the quicker of the libraries that torch brings along.

On a CPU torch hands float32 products to MKL; oneDNN was the quicker one on the processors that
are not Intel's on which both were tried. Both sum in float32 and differ in rounding alone. Which
one serves follows from device and dtype, never from timing.

The op is private to torch, which calls it from compiled models only. Where it is missing, torch's
own choice serves.
"""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

_OP = "_linear_pointwise"


def linear(
    x: Float[Tensor, "*n d_in"],
    weight: Float[Tensor, "d_out d_in"],
    bias: Float[Tensor, " d_out"] | None = None,
) -> Float[Tensor, "*n d_out"]:
    """x weight^T + bias."""
    if not _serves(x, weight):
        return nn.functional.linear(x, weight, bias)
    if bias is not None:
        bias = bias.contiguous()  # the op reads on in memory, whatever the stride
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def serve(module: nn.Module) -> None:
    """Let every plain linear map of a model be computed by `linear`, from now on."""
    for part in module.modules():
        if type(part) is nn.Linear:
            vars(part)["forward"] = partial(_linear_map, part)
        elif type(part) is Conv1D:
            vars(part)["forward"] = partial(_transposed_map, part)


def _linear_map(part: nn.Linear, input: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_out"]:
    return linear(input, part.weight, part.bias)


def _transposed_map(part: Conv1D, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_out"]:
    return linear(x, part.weight.T, part.bias)


def _serves(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, _OP)
    )
