"""Check that a model's own code computes in a dtype, before any weights are read."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from pipeline.errors import InputError, first_line
from pipeline.models.architecture import torch_dtype

_LENGTH = 24  # tokens of the pass that is tried

# Products of which torch takes tensors of one dtype alone. Others (linear, matmul, einsum, conv1d)
# are made of these, or of multiplications that take two.
_PRODUCTS = {"mm", "bmm", "mv", "dot", "addmm", "baddbmm", "addmv", "convolution"}


def refuse_dtype(module: PreTrainedModel, dtype: str) -> None:
    """Raise InputError if a model's forward pass fails in a dtype, and not in float32.

    module: on the meta device, in float32, so that the pass has shapes and dtypes, but no numbers.
    Nothing is refused where it fails in float32 too: some models read numbers on their way. Code of
    recurrent layers may mix float32 with the dtype of the weights; xLSTM's does.
    """
    if dtype == "float32" or _failure(module) is not None:
        return
    if (why := _failure(nn.Module.to(module, torch_dtype(dtype)))) is not None:
        raise InputError(
            f"workers.dtype: transformers' code of {type(module).__name__} computes in float32, "
            f"but not in {dtype} ({why}): set `workers: {{dtype: float32}}`"
        )


@torch.inference_mode()
def _failure(module: nn.Module) -> str | None:
    """Return why a forward pass fails; None if it does not."""
    tokens = torch.zeros(1, _LENGTH, dtype=torch.long, device="meta")
    try:
        with _OneDtype():
            module(input_ids=tokens, use_cache=False)
    except Exception as error:  # of any type: it is the model's code
        return first_line(error)
    return None


class _OneDtype(TorchDispatchMode):
    """Refuse products of tensors of two dtypes, as torch does where tensors have memory.

    On the meta device, torch before 2.13 computes the shape of such a product.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation of torch; raise RuntimeError where its tensors differ in dtype."""
        kwargs = kwargs or {}
        # In inference mode, operations that torch composes of others arrive here whole.
        with self:
            found = func.decompose(*args, **kwargs)
        if found is not NotImplemented:
            return found
        if func.overloadpacket.__name__ in _PRODUCTS:
            dtypes = {x.dtype for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
            if len(dtypes) > 1:
                names = " and ".join(sorted(str(dtype) for dtype in dtypes))
                raise RuntimeError(f"a product of {names}")
        return func(*args, **kwargs)
