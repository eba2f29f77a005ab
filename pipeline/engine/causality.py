"""Checks that layers without attention read only the tokens that they should.

The mask of attention shows which tokens it reads. A recurrence or a convolution has no mask: the
model runs on two sequences that differ from some token on, and must yield equal numbers before it.
"""

from weakref import WeakSet

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.engine.defined import real_tokens
from pipeline.engine.streams import Stream
from pipeline.engine.unembedding import replaced_unembedding
from pipeline.errors import InputError
from pipeline.inputs import Input

_LENGTH, _SAME = 24, 12  # tokens of the two sequences, and how many of the first ones are equal

_FOUND_CAUSAL: WeakSet[nn.Module] = WeakSet()


def refuse_reading_ahead(module: PreTrainedModel, vocabulary: int) -> None:
    """Raise InputError if a token's numbers depend on later tokens.

    The check is made once for a module; with weights that yield NaN, which show nothing, it is
    made again with the next ones.
    """
    if module in _FOUND_CAUSAL or vocabulary < 2:
        return
    tokens = torch.arange(_LENGTH).remainder(vocabulary).repeat(2, 1)
    tokens[1, _SAME:] = (tokens[1, _SAME:] + 1) % vocabulary
    first, second = _last_stream(module, tokens.to(module.device))[:, :_SAME]
    if not bool((first.isfinite() & second.isfinite()).all()):
        return
    # Chunks of a recurrence are summed together, so that equal numbers differ by rounding.
    tolerance = 1e-4 if module.dtype.itemsize >= 4 else 1e-2
    if bool((first - second).abs().max() > tolerance * first.abs().max()):
        raise InputError(
            f"{type(module).__name__} lets a token depend on later tokens, so its losses are no "
            "predictions: give checkpoints of a causal decoder"
        )
    _FOUND_CAUSAL.add(module)


def refuse_padding_before(made: Input) -> None:
    """Raise InputError for padding before a token, which not every recurrent layer leaves out."""
    real = real_tokens(made)
    if (real[:, 1:] & ~real[:, :-1]).any():
        raise InputError(
            f"input {made.name!r}: has padding before some of its tokens, which this model's "
            "recurrent layers would read: pad after the tokens"
        )


def _last_stream(module: PreTrainedModel, tokens: Tensor) -> Stream:
    taken: list[Stream] = []

    def take(h: Stream) -> Tensor:
        taken.append(h)
        return h.new_zeros(*h.shape[:-1], 1)

    with replaced_unembedding(module, take):
        module(input_ids=tokens, use_cache=False)
    return taken[0].float()
