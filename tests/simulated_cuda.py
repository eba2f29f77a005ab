"""Let "cuda" be the simulated device: the functions of torch that make or move tensors."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from tests.simulated_device import CUDA, SimulatedTensor


def _made_on_the_device(op: Any, *args: Any, **kwargs: Any) -> Tensor:
    """Make a tensor where torch makes one for "cuda"."""
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    if tensors:
        raise NotImplementedError(f"{op} reached CUDA with tensors of {tensors[0].device}")
    return SimulatedTensor(op(*args, **{**kwargs, "device": torch.device("cpu")}))


def _moving(original: Callable) -> Callable:
    """Return `Tensor.to` with an index for "cuda": without one, torch asks CUDA's own library."""

    def to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        args = tuple(_indexed(x) for x in args)
        return original(self, *args, **{key: _indexed(x) for key, x in kwargs.items()})

    to.__name__ = "to"
    return to


def _indexed(x: Any) -> Any:
    is_device = isinstance(x, (str, torch.device)) and str(x).startswith("cuda")
    return CUDA if is_device else x


def _keeping_ties(original: Callable) -> Callable:
    """Return `Module.to` after which names of one parameter share one again.

    torch exchanges the data of parameters, which the tensors here do not allow: they are new ones.
    """

    def to(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        names: dict[int, list[str]] = {}
        for name, parameter in self.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
        original(self, *args, **kwargs)
        for first, *others in names.values():
            for name in others:
                owner, _, leaf = name.rpartition(".")
                setattr(self.get_submodule(owner), leaf, self.get_parameter(first))
        return self

    return to


def _unpinned(original: Callable) -> Callable:
    """Return a function that makes tensors in ordinary memory where pinned memory is asked for."""

    def made(*args: Any, pin_memory: bool = False, **kwargs: Any) -> Tensor:
        return original(*args, **kwargs)

    return made


def _from_host(original: Callable) -> Callable:
    """Return a function that makes tensors from numbers, with a move to the device of its own."""

    def made(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        tensor = original(*args, **kwargs)
        return tensor if device is None else tensor.to(device)

    return made


# Operations that make a tensor from no other, which torch would otherwise resize on the device.
_FACTORIES = (
    "arange", "arange.start", "arange.start_step", "linspace", "logspace", "eye", "eye.m", "full",
    "zeros", "ones", "rand", "randn", "randint", "randint.low", "randperm", "scalar_tensor",
    "tril_indices", "triu_indices",
)  # fmt: skip

_LIBRARIES: list[torch.library.Library] = []


def _register() -> None:
    """Let factories work for "cuda", for the whole process: torch cannot remove a fallback."""
    if _LIBRARIES:
        return
    fallback, own = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    fallback.fallback(_made_on_the_device, "CUDA")
    for name in _FACTORIES:
        packet, _, overload = name.partition(".")
        op = getattr(getattr(torch.ops.aten, packet), overload or "default")
        own.impl(name, partial(_made_on_the_device, op), "CUDA")
    _LIBRARIES.extend([fallback, own])


@contextmanager
def simulated_cuda() -> Iterator[None]:
    """Let "cuda" be the simulated device within the block, in all threads.

    The test is skipped in a torch that has CUDA, whose own functions would be replaced.
    """
    if torch.version.cuda is not None:
        pytest.skip(
            f"torch {torch.__version__} has CUDA, and the simulated device would replace it"
        )
    _register()
    replaced = {
        "torch.cuda._lazy_init": lambda: None,
        "torch.cuda.is_available": lambda: True,
        "torch.cuda.device_count": lambda: 1,
        "torch.cuda.empty_cache": lambda: None,
        "torch.cuda.synchronize": lambda *_: None,
        "torch.cuda.get_device_capability": lambda *_: (9, 0),
        "torch.cuda.mem_get_info": lambda *_: (2**36, 2**36),
        # Streams and events: everything happens at once, in the order of calls.
        **{f"torch.cuda.{of}": mock.MagicMock() for of in ("Stream", "Event", "stream")},
        "torch.cuda.current_stream": mock.MagicMock(),
        "torch.Tensor.record_stream": lambda *_: None,
        "torch.empty": _unpinned(torch.empty),
        "torch.Tensor.to": _moving(Tensor.to),
        "torch.nn.Module.to": _keeping_ties(nn.Module.to),
        "torch.Tensor.cuda": lambda self: self.to(CUDA),
        **{f"torch.{of}": _from_host(getattr(torch, of)) for of in ("tensor", "as_tensor")},
    }
    with ExitStack() as stack:
        for name, new in replaced.items():
            stack.enter_context(mock.patch(name, new))
        yield
