"""Entries of whole attention matrices at requested pairs, looked up one by one."""

import torch
from torch import Tensor

from pipeline.engine.record import AttentionRequest, KeyMap, KeyPosition, Lag


def asked_key(request: AttentionRequest, sequence: int, query: int) -> int:
    """Return the key of one query, by the definition of each request; -1 for none."""
    match request:
        case Lag(lag):
            return query - lag if query >= lag else -1
        case KeyPosition(position):
            return position if position <= query else -1
        case KeyMap(index):
            return int(index[sequence, query])
    raise TypeError(request)


def entries(matrix: Tensor, request: AttentionRequest) -> Tensor:
    """Look up a request's entries one by one in [layer, sequence, head, query, key]."""
    layers, sequences, heads, length, _ = matrix.shape
    out = matrix.new_full((layers, sequences, heads, length), torch.nan)
    for s in range(sequences):
        for i in range(length):
            if (j := asked_key(request, s, i)) >= 0:
                out[:, s, :, i] = matrix[:, s, :, i, j]
    return out
