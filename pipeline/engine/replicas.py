"""Copies of a model that share its weights, so that several threads run it at a time.

A pass registers hooks and replaces methods on the model that it runs (`forward.py`): each thread
needs a model of its own for them.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from queue import SimpleQueue
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from transformers import PreTrainedModel

from pipeline.errors import first_line
from pipeline.outside import is_out_of_memory

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
    """Return n copies of a model that have its weights, also after a swap.

    They are made once for each model, and have the hooks and replaced methods that it had then.
    The list is empty, with a warning, for a model with an attribute that cannot be copied, which
    code from a checkpoint's folder may have.
    """
    made = _REPLICAS.setdefault(module, [])
    try:
        while made is not None and len(made) < n:
            made.append(_replica(module))
    except Exception as error:  # of any type: `deepcopy` runs methods of the objects that it copies
        if is_out_of_memory(error):
            raise
        _log.warning("%s runs in one thread: %s", type(module).__name__, first_line(error))
        made = _REPLICAS[module] = None
    return [] if made is None else made[:n]


def _replica(module: PreTrainedModel) -> PreTrainedModel:
    shared = [_shared(one) for one in module.modules()]
    kept = {id(t): t for of in shared for tensors in of.values() for t in tensors.values()}
    replica = deepcopy(module, kept)
    for own, of in zip(replica.modules(), shared, strict=True):
        # The dictionaries themselves, so that tensors which the model is given later are shared.
        vars(own).update(of)
    return replica


def _shared(module: nn.Module) -> dict[str, dict[str, Any]]:
    """Return the dictionaries of a module (not of its parts) that its replicas share, by attribute.

    Buffers that no checkpoint has are not shared: they may be a cache of the model's own code
    (rotary frequencies), rewritten in a pass and described by attributes, which each replica has.
    """
    found: dict[str, dict[str, Any]] = {"_parameters": module._parameters}
    if module._buffers.keys() - module._non_persistent_buffers_set:
        found["_buffers"] = module._buffers
    return found
