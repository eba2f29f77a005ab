"""Products by oneDNN against the definition in float64, and which linear maps are replaced."""

from collections.abc import Iterator

import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from pipeline.engine import products
from pipeline.engine.products import align_precision, linear, replace_linear


def example(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(3, 50, 24), torch.randn(40, 24), torch.randn(40)
    return x.to(dtype), weight.to(dtype), bias.to(dtype)


def by_definition(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product = torch.einsum("bti,oi->bto", x.double(), weight.double())
    return product if bias is None else product + bias.double()


LAYOUTS = {
    "plain": lambda x, w, b: (x, w, b),
    "without bias": lambda x, w, b: (x, w, None),
    "weight of a Conv1D": lambda x, w, b: (x, w.T.contiguous().T, b),
    "rows of a larger weight": lambda x, w, b: (x, w[3:17], b[3:17]),
    "all but the last token": lambda x, w, b: (x[:, :-1], w, b),
    "every other column": lambda x, w, b: (x[..., ::2], w[:, ::2], b),
    "strided bias": lambda x, w, b: (x, w[:20], b[::2]),
    "one token": lambda x, w, b: (x[:1, :1], w, b),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_product_is_the_definition_in_every_layout(layout: str, dtype: torch.dtype) -> None:
    x, weight, bias = LAYOUTS[layout](*example(dtype))
    with torch.inference_mode():
        found = linear(x, weight, bias)
    digits = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 0.2}[dtype]
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), by_definition(x, weight, bias), atol=digits, rtol=0)


def test_where_the_op_is_missing_torch_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = example()
    monkeypatch.setattr(products, "_OP", "no_such_op")
    assert torch.equal(linear(x, weight, bias), nn.functional.linear(x, weight, bias))


@pytest.mark.parametrize(
    ("config", "maps"),
    [
        (hf.GPTNeoXConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4), 2 * 4 + 1),
        (hf.GPT2Config(n_embd=32, n_layer=2, n_head=4), 2 * 4 + 1),
    ],
)
def test_every_linear_map_of_a_model_is_served(
    config: hf.PreTrainedConfig, maps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.vocab_size, config.intermediate_size = 96, 64
    model = AutoModelForCausalLM.from_config(config).eval()
    tokens = torch.arange(24).view(2, 12)
    with torch.inference_mode():
        expected = model(tokens, use_cache=False).logits
    served: list[int] = []
    plain = products.linear
    monkeypatch.setattr(products, "linear", lambda *a: served.append(1) or plain(*a))
    replace_linear(model)
    with torch.inference_mode():
        found = model(tokens, use_cache=False).logits
    assert len(served) == maps
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.fixture
def tf32() -> Iterator[None]:
    """Restore torch's settings, which `monkeypatch` cannot: they are no attributes."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    yield
    matmul.allow_tf32, cudnn.allow_tf32 = before


@pytest.mark.parametrize("wanted", [True, False])
def test_convolutions_on_cuda_round_as_products_do(wanted: bool, tf32: None) -> None:
    torch.backends.cuda.matmul.allow_tf32 = wanted
    for before in (True, False):
        torch.backends.cudnn.allow_tf32 = before
        align_precision(torch.device("cpu"))
        assert torch.backends.cudnn.allow_tf32 is before
        align_precision(torch.device("cuda"))
        assert torch.backends.cudnn.allow_tf32 is wanted
