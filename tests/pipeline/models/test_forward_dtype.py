"""A dtype is refused exactly where torch refuses the products that a model's code makes in it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, linear
from transformers import PreTrainedConfig, PreTrainedModel

from pipeline.errors import InputError
from pipeline.models.forward_dtype import refuse_dtype

Product = Callable[[Tensor, Tensor], Tensor]

# Of a float32 tensor [24, 4] and a parameter [4, 4] in the dtype of the model.
PRODUCTS: dict[str, Product] = {
    "outer": lambda x, w: torch.einsum("i,j->ij", x[:, 0], w[0]),
    "of entries": lambda x, w: torch.einsum("ti,i->ti", x, w[0]),
    "*": lambda x, w: x * w[0],
    "contracted": lambda x, w: torch.einsum("ti,ij->tj", x, w),
    "summed": lambda x, w: torch.einsum("ti,i->t", x, w[0]),
    "@": lambda x, w: x @ w,
    "batched": lambda x, w: x[None].expand(2, -1, -1) @ w[None].expand(2, -1, -1),
    "linear": linear,
    "bias": lambda x, w: linear(x.to(w.dtype), w, x[0]),
    "conv1d": lambda x, w: conv1d(x.T[None], w[:, :, None]),
    "in the dtype of the weights": lambda x, w: x.to(w.dtype) @ w,
}


class _Model(PreTrainedModel):
    """Makes one product of float32 numbers and a parameter."""

    def __init__(self, product: Product, device: str) -> None:
        super().__init__(PreTrainedConfig())
        self.product = product
        self.matrix = nn.Parameter(torch.ones(4, 4, device=device))

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> Tensor:
        numbers = input_ids[0, :, None].expand(-1, 4).float()
        return self.product(numbers, self.matrix)


@torch.inference_mode()
def _raises(product: Product, dtype: torch.dtype) -> bool:
    try:
        nn.Module.to(_Model(product, "cpu"), dtype)(torch.zeros(1, 24, dtype=torch.long))
    except RuntimeError:
        return True
    return False


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_is_refused_where_torch_refuses_it(name: str) -> None:
    product, model = PRODUCTS[name], _Model(PRODUCTS[name], "meta")
    assert not _raises(product, torch.float32)
    if _raises(product, torch.bfloat16):
        with pytest.raises(InputError, match="computes in float32, but not in bfloat16"):
            refuse_dtype(model, "bfloat16")
    else:
        refuse_dtype(model, "bfloat16")


def test_these_products_are_of_both_kinds() -> None:
    raised = {name for name, product in PRODUCTS.items() if _raises(product, torch.bfloat16)}
    assert {"contracted", "summed", "@", "batched", "linear", "bias", "conv1d"} <= raised
    assert {"outer", "of entries", "*", "in the dtype of the weights"}.isdisjoint(raised)
