"""An estimate of the activations that are in memory while a model runs, from shapes alone."""

import math
from weakref import WeakKeyDictionary

import transformers
from packaging.version import Version
from torch import nn
from transformers import PreTrainedModel

from pipeline.models.facts import ModelFacts
from pipeline.models.layers import uses_interface

# Tokens that a gated delta rule takes together in transformers' code, a default argument there.
_CHUNK = 64

# The parameter by which recurrences name the rates of their decay: of each channel and state
# (Mamba), or of each head (Mamba 2, gated delta rules).
_RATES = "A_log"

# Before 5.18, transformers' code of Mamba 2 made the products of all pairs and then summed them,
# where newer code calls einsum.
_KEEPS_PRODUCTS = Version(transformers.__version__) < Version("5.18")

# The numbers for each token in a model's recurrences, and the tokens that each takes together. Kept
# because every pass asks, and a walk through the modules of a large model takes a millisecond.
_OF_RECURRENCES: WeakKeyDictionary[nn.Module, set[tuple[int, int]]] = WeakKeyDictionary()


def numbers_per_token(facts: ModelFacts, module: PreTrainedModel, length: int) -> int:
    """Return about how many numbers are alive at a time for each token of a sequence."""
    config = module.config.get_text_config()
    # GPT-2 has no such setting; its MLP has 4 d_model neurons by default.
    d_mlp = getattr(config, "intermediate_size", None) or 4 * facts.d_model
    # Those of the stream and of attention, those of a gated MLP, and in eager attention the matrix,
    # its softmax and a copy.
    found = 8 * facts.d_model + 3 * d_mlp
    if not uses_interface(module):
        found += 3 * facts.n_heads * length
    if module not in _OF_RECURRENCES:
        _OF_RECURRENCES[module] = set(filter(None, map(_of_recurrence, module.modules())))
    # Sequences are padded to whole chunks.
    padded = (n * math.ceil(length / c) * c // length for n, c in _OF_RECURRENCES[module])
    return found + max(padded, default=0)


def _of_recurrence(part: nn.Module) -> tuple[int, int] | None:
    """Return the numbers for each token in a recurrence without kernels, and the tokens of a chunk.

    transformers' own code is used where kernels (mamba-ssm, flash-linear-attention) are not
    installed; it keeps the states or decays of many tokens at a time. The factors are those of the
    memory that it was seen to take.
    """
    rates = vars(part).get("_parameters", {}).get(_RATES)
    if rates is None:
        return None
    n = rates.numel()
    if rates.ndim in (2, 3):  # Mamba: a state of each channel at every token
        return 4 * n, 1
    chunk: int = getattr(part, "chunk_size", _CHUNK)
    width = int(getattr(part, "head_dim", None) or 1)
    state: int | None = getattr(part, "ssm_state_size", None) or getattr(part, "head_k_dim", None)
    if state is not None:  # decays and scores of each pair of tokens in a chunk
        products = 0
        if _KEEPS_PRODUCTS and hasattr(part, "ssm_state_size"):
            products = max(chunk * max(state, width), width * state)
        return n * (4 * chunk + 8 * state + products), chunk
    # Kimi's delta attention: such decays are of each channel of a head.
    return 3 * n * chunk * width, chunk
