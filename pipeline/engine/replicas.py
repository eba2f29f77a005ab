"""Copies of a model that share its weights, so that several threads run it at a time.

A pass registers hooks and replaces methods on the model that it runs (`forward.py`): each thread
needs a model of its own for them.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from itertools import chain
from queue import SimpleQueue
from weakref import WeakKeyDictionary

from torch import nn
from transformers import PreTrainedModel

_log = logging.getLogger(__name__)

# By model, and weakly: they go when the worker drops the model. None: it cannot be copied.
_REPLICAS: WeakKeyDictionary[nn.Module, list[PreTrainedModel] | None] = WeakKeyDictionary()


class Replicas:
    """A model and copies of it, which threads borrow one at a time."""

    def __init__(self, module: PreTrainedModel, n: int) -> None:
        self._free: SimpleQueue[PreTrainedModel] = SimpleQueue()
        for one in (module, *replicas_of(module, n - 1)):
            self._free.put(one)

    @contextmanager
    def borrowed(self) -> Iterator[PreTrainedModel]:
        """Yield a model that no other thread has; wait until there is one."""
        own = self._free.get()
        try:
            yield own
        finally:
            self._free.put(own)


def replicas_of(module: PreTrainedModel, n: int) -> list[PreTrainedModel]:
    """Return n copies of a model that have its parameters and buffers, also after a swap.

    They are made once for each model, and have the hooks and replaced methods that it had then.
    None, with a warning, are returned of a model with an attribute that cannot be copied, which
    code from a checkpoint's folder may have.
    """
    made = _REPLICAS.setdefault(module, [])
    try:
        while made is not None and len(made) < n:
            made.append(_replica(module))
    except TypeError as error:
        _log.warning("%s runs in one thread: %s", type(module).__name__, error)
        made = _REPLICAS[module] = None
    return [] if made is None else made[:n]


def _replica(module: PreTrainedModel) -> PreTrainedModel:
    kept = {id(tensor): tensor for tensor in chain(module.parameters(), module.buffers())}
    replica = deepcopy(module, kept)
    for own, original in zip(replica.modules(), module.modules(), strict=True):
        # The dictionaries themselves, so that tensors which the model is given later are shared.
        vars(own)["_parameters"] = original._parameters
        vars(own)["_buffers"] = original._buffers
    return replica
