"""The forward pass that costs are compared with: what anyone pays for the losses alone."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel


def bare(model: PreTrainedModel, tokens: Tensor, batch: int | None = None) -> Callable[[], Tensor]:
    """Return a function that computes the losses of all tokens, `batch` sequences at a time.

    It is the model's own forward, without a cache, with all logits.
    """

    @torch.inference_mode()
    def compute() -> Tensor:
        parts = tokens.split(batch or len(tokens))
        return torch.cat([losses(model(part, use_cache=False).logits, part) for part in parts])

    return compute


def losses(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return per-token cross-entropy in float32, by sequence to avoid a copy of all logits."""
    pairs = zip(logits, tokens, strict=True)
    return torch.stack(
        [cross_entropy(row[:-1].float(), ids[1:], reduction="none") for row, ids in pairs]
    )
