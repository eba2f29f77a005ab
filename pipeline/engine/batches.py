"""The division of a pass into batches, by a rule on shapes, memory and threads; never by timing."""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from transformers import PreTrainedModel

from pipeline.engine.activations import numbers_per_token
from pipeline.engine.threads import threads_on
from pipeline.models.facts import ModelFacts

# Bytes of activations of one batch: enough tokens to keep the products busy, few enough to stay
# in the cache. Each thread computes one at a time. Less where the caller's memory is less.
_BATCH_BYTES = {"cpu": 1 << 26, "cuda": 1 << 32}

# Fused attention on CUDA starts a block of threads for each sequence, and a grid has no more.
_MOST_SEQUENCES = 65_535


@dataclass(frozen=True)
class Limits:
    """Limits of the batches of a pass, besides shapes and threads.

    memory_bytes: the most bytes of activations at a time, about; None for what suits the device.
    divided: into how many each batch of that size is divided, since less memory was left.
    """

    memory_bytes: int | None = None
    divided: int = 1


def batches_of(n: int, most: int, together: int, threads: int, divided: int = 1) -> list[slice]:
    """Return batches of at most `most` rows, in multiples of `together`, of nearly equal sizes.

    They are the fewest that every thread has as many of, where there are enough rows. Equal sizes,
    because matrix products over a small last batch are slow, and all threads wait for the last.
    Each of them is then divided into `divided` batches, as far as it has rows.
    """
    groups = n // together
    fewest = math.ceil(groups / max(1, most // together))
    number = min(groups, math.ceil(fewest / threads) * threads * divided)
    ends = [groups * i // number * together for i in range(number + 1)]
    return [slice(first, last) for first, last in pairwise(ends)]


def batch_size(
    facts: ModelFacts, module: PreTrainedModel, length: int, memory_bytes: int | None
) -> int:
    """Return the sequences per batch, at least one, from shapes, dtype, device and threads."""
    bytes_ = numbers_per_token(facts, module, length) * length * module.dtype.itemsize
    of_all = activation_bytes(module.device, memory_bytes)
    return min(max(1, of_all // threads_on(module.device) // bytes_), _MOST_SEQUENCES)


def activation_bytes(device: torch.device, memory_bytes: int | None) -> int:
    """Return the bytes of activations of a pass at a time: `memory_bytes`, or less if that is more.

    More would make batches no faster.
    """
    usual = _BATCH_BYTES["cuda" if device.type == "cuda" else "cpu"] * threads_on(device)
    return min(usual, memory_bytes or usual)
