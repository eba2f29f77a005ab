"""Products of activations with weights, by the faster of the libraries that ship with torch.

On a CPU torch computes float32 products with MKL; oneDNN was faster on the non-Intel processors on
which both were tried. Both sum in float32 and differ in rounding only. The choice follows from
device and dtype, never from timing.

The op is private to torch, which calls it from compiled models only. Where it is missing,
`torch.nn.functional.linear` is used.
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
    """Return x weight^T + bias."""
    if not _serves(x, weight):
        return nn.functional.linear(x, weight, bias)
    if bias is not None:
        bias = bias.contiguous()  # the op reads on in memory, whatever the stride
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def replace_linear(module: nn.Module) -> None:
    """Make `linear` compute every plain linear map of a model from now on.

    A subclass may compute something else in its `forward`, hence the comparison of exact types.
    """
    for part in module.modules():
        if type(part) is nn.Linear:
            # An attribute of the instance takes precedence over the method of the class, and
            # hooks, which `__call__` runs, still work.
            vars(part)["forward"] = partial(_linear_map, part)
        elif type(part) is Conv1D:  # GPT-2's linear maps, with weights [d_in, d_out]
            vars(part)["forward"] = partial(_transposed_map, part)


def align_precision(device: torch.device) -> None:
    """Let float32 convolutions on CUDA round their inputs to TF32 only where products do.

    By default torch rounds those of convolutions (Mamba) alone. The setting is the process's.
    """
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32


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
