"""Tiled cross-entropy against torch's on all logits at once."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipeline.engine import cross_entropy as module
from pipeline.engine.cross_entropy import Unembedding, token_losses


def example(
    tokens: int, vocabulary: int, d_model: int, size: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(tokens)
    h = torch.randn(tokens, d_model, dtype=dtype) * size
    weight, bias = torch.randn(vocabulary, d_model, dtype=dtype), torch.randn(vocabulary)
    return h, torch.randint(0, vocabulary, (tokens,)), weight, bias.to(dtype)


def at_once(h: Tensor, targets: Tensor, unembedding: Unembedding) -> Tensor:
    raw = h @ unembedding.weight.T
    raw = raw if unembedding.bias is None else raw + unembedding.bias
    logits = raw * unembedding.scale
    if unembedding.softcap is not None:
        logits = torch.tanh(logits / unembedding.softcap) * unembedding.softcap
    return cross_entropy(logits, targets, reduction="none")


# Around the tile's edges: 1024 tokens by 1048 vocabulary entries.
SHAPES = [(1, 1, 4), (3, 40, 8), (1024, 1048, 8), (1025, 1049, 8), (1023, 2095, 16)]


@pytest.mark.parametrize(("tokens", "vocabulary", "d_model"), SHAPES)
@pytest.mark.parametrize("size", [0.1, 1.0, 30.0])
def test_losses_are_those_of_the_whole_matrix(
    tokens: int, vocabulary: int, d_model: int, size: float
) -> None:
    h, targets, weight, bias = example(tokens, vocabulary, d_model, size, torch.float64)
    for unembedding in (
        Unembedding(weight),
        Unembedding(weight, bias),
        Unembedding(weight, bias, scale=0.25),
        Unembedding(weight, bias, scale=0.25, softcap=3.0),
        Unembedding(weight, softcap=30.0),
    ):
        found, expected = token_losses(h, targets, unembedding), at_once(h, targets, unembedding)
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, expected, atol=1e-11, rtol=1e-12)


def test_float32_losses_are_as_good_as_torch_s_own() -> None:
    h, targets, weight, _ = example(700, 5000, 64, 1.0, torch.float32)
    truth = at_once(h.double(), targets, Unembedding(weight.double()))
    mine = (token_losses(h, targets, Unembedding(weight)) - truth).abs()
    theirs = (at_once(h, targets, Unembedding(weight)) - truth).abs()
    assert mine.max() < 3e-5 and mine.mean() < 2 * theirs.mean()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_sums_in_float32(dtype: torch.dtype) -> None:
    h, targets, weight, _ = example(600, 3000, 16, 0.5, dtype)
    found = token_losses(h, targets, Unembedding(weight))
    expected = cross_entropy((h @ weight.T).float(), targets, reduction="none")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("entry", [0, 1047, 1048, 1999])
@pytest.mark.parametrize("logit", [150.0, 1e4, -1e4])
def test_one_outlying_logit_anywhere_neither_overflows_nor_vanishes(
    entry: int, logit: float
) -> None:
    weight, h = torch.zeros(2000, 1), torch.ones(5, 1)
    weight[entry] = logit
    targets = torch.tensor([0, 1047, 1048, 1999, entry])
    found = token_losses(h, targets, Unembedding(weight))
    torch.testing.assert_close(
        found, at_once(h, targets, Unembedding(weight)), atol=1e-3, rtol=1e-6
    )


@pytest.mark.parametrize("offset", [-500.0, -90.0, 90.0, 500.0])
def test_logits_far_from_zero_lose_nothing(offset: float) -> None:
    h, targets, weight, _ = example(64, 1500, 8, 1.0, torch.float64)
    shifted = Unembedding(weight, torch.full((1500,), offset, dtype=torch.float64))
    torch.testing.assert_close(
        token_losses(h, targets, shifted), at_once(h, targets, Unembedding(weight)), atol=1e-9,
        rtol=0,
    )  # fmt: skip


def test_a_certain_prediction_has_a_loss_of_zero() -> None:
    weight = torch.zeros(2000, 1)
    weight[7] = 80.3
    losses = token_losses(torch.full((3, 1), 1.1), torch.tensor([7, 7, 7]), Unembedding(weight))
    assert torch.equal(losses, torch.zeros(3))


def test_a_diverged_model_has_losses_that_are_not_numbers() -> None:
    h, targets, weight, _ = example(4, 600, 8, 1.0, torch.float32)
    h[1] = torch.nan
    losses = token_losses(h, targets, Unembedding(weight))
    assert losses.isnan().tolist() == [False, True, False, False]


def test_neither_tokens_nor_vocabulary_are_ever_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TILES", {"cpu": (64, 100)})
    sizes: list[int] = []
    plain = module.linear

    def watched(h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        tile = plain(h, weight, bias)
        sizes.append(tile.untyped_storage().nbytes() // 4)
        return tile

    monkeypatch.setattr(module, "linear", watched)
    h, targets, weight, _ = example(200, 950, 8, 1.0, torch.float32)
    token_losses(h, targets, Unembedding(weight))
    assert len(sizes) == 4 * 10 and max(sizes) == 64 * 100
