"""A second device for tests on machines without one: "cuda", whose tensors are computed on the CPU.

A tensor of this device says that it is on "cuda:0", and holds a CPU tensor. Each function of torch
that receives one checks first what a GPU would refuse: operands on different devices (CPU tensors
without dimensions are allowed to elementwise functions, and CPU indices to indexing, as in torch),
a conversion to NumPy, a generator of another device. It then computes on the CPU. So a test finds
a tensor that was made on the wrong device, without a GPU; it shows nothing about rounding or speed.

`HostReads` counts the places at which the host waits for a number of the device.
"""

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from tests.cuda_kernels import KERNELS

CUDA = torch.device("cuda:0")

# Functions that take CPU tensors beside those of the device.
_ACROSS = {"copy_", "_to_copy", "to", "type_as", "set_data"}

# Of functions of torch, those that take no CPU operand without dimensions beside a CUDA one.
_SAME_DEVICE = {
    "cat", "concat", "concatenate", "stack", "hstack", "vstack", "gather", "index_select",
    "scatter", "scatter_", "scatter_add_", "take_along_dim", "searchsorted", "bucketize",
    "embedding", "index_add_", "index_copy_", "vecdot", "einsum", "linear",
}  # fmt: skip

# Functions in which CPU tensors are allowed as indices.
_INDEXING = {"__getitem__", "__setitem__", "index", "index_put", "index_put_", "_index_put_impl_"}

# Properties and methods of the tensor itself instead of its numbers.
_OWN = {
    "requires_grad", "requires_grad_", "is_leaf", "grad", "grad_fn", "retain_grad", "_version",
    "output_nr", "names", "__hash__", "__class__", "_is_param", "_backward_hooks",
    "_post_accumulate_grad_hooks",
}  # fmt: skip

# Functions that wait for the device, since the host needs their result.
_READ = {
    "item", "tolist", "__float__", "__int__", "__bool__", "__index__", "cpu", "nonzero", "argwhere",
    "equal", "allclose", "masked_select", "unique", "_local_scalar_dense", "is_nonzero", "bincount",
    "unique_consecutive", "__contains__", "__complex__",
}  # fmt: skip


class SimulatedTensor(Tensor):
    """A tensor of the simulated device; `held` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "SimulatedTensor":
        """Make a tensor without memory of its own."""
        made = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=CUDA,
        )
        made.held = held.detach()
        return made

    def __repr__(self, **_: Any) -> str:
        """Return the numbers and the device."""
        return f"{self.held!r} on {CUDA}"

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict | None = None
    ) -> Any:
        """Call a function of torch's Python interface."""
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            name = _name(func)
            if name in _OWN:
                return func(*args, **kwargs)
            if name in _SPECIAL:
                return _SPECIAL[name](func, *args, **kwargs)
            return _call(func, name, args, kwargs)

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict | None = None
    ) -> Any:
        """Call one of torch's operations where no Python function was called with the tensor."""
        with torch._C.DisableTorchFunctionSubclass():
            return _call(func, func._schema.name.split("::")[-1], args, kwargs or {})


def _name(func: Any) -> str:
    """Return the name of a function, or of the property that a getter or setter belongs to."""
    if func.__name__ in ("__get__", "__set__"):
        of = func.__self__.__name__
        return of if func.__name__ == "__get__" else f"set_{of}"
    return func.__name__


def _call(func: Callable, name: str, args: tuple[Any, ...], kwargs: dict) -> Any:
    """Refuse what a GPU refuses; compute on the CPU; return results on the device."""
    _refuse_mixed(name, args, kwargs)
    leaves, spec = tree_flatten((args, kwargs))
    given = {id(x.held): x for x in leaves if isinstance(x, SimulatedTensor)}
    given |= {id(x): x for x in leaves if type(x) is Tensor or type(x) is nn.Parameter}
    onto = _target(name, leaves, args, kwargs)
    plain_args, plain_kwargs = tree_unflatten([_on_cpu(x) for x in leaves], spec)
    HostReads.note(name, args, onto)
    result = KERNELS.get(name, func)(*plain_args, **plain_kwargs)
    if func.__name__ == "__set__" or name == "__setitem__":
        return None
    for x in leaves:
        if isinstance(x, SimulatedTensor) and x.held.shape != x.shape:
            raise NotImplementedError(f"{name} changes the shape of a tensor in place")

    def placed(x: Any) -> Any:
        if not isinstance(x, Tensor) or isinstance(x, SimulatedTensor):
            return x
        if id(x) in given and given[id(x)].device.type in (onto.type, "meta"):
            return given[id(x)]  # in place
        if onto.type == "cpu" and x.device.type == "cpu" and name in ("to", "cpu", "_to_copy"):
            # A copy to the host has memory of its own.
            return x.clone() if any(x.data_ptr() == h.held.data_ptr() for h in _sims(leaves)) else x
        return SimulatedTensor(x) if onto.type == "cuda" and x.device.type == "cpu" else x

    return tree_map(placed, result)


def _sims(leaves: list) -> list[SimulatedTensor]:
    return [x for x in leaves if isinstance(x, SimulatedTensor)]


def _on_cpu(x: Any) -> Any:
    if isinstance(x, SimulatedTensor):
        return x.held
    if isinstance(x, torch.device) and x.type == "cuda":
        return torch.device("cpu")
    return "cpu" if isinstance(x, str) and x.startswith("cuda") else x


def _target(name: str, leaves: list, args: tuple[Any, ...], kwargs: dict) -> torch.device:
    """Return the device of a function's results."""
    if name == "cpu":
        return torch.device("cpu")
    if name == "cuda":
        return CUDA
    if (device := kwargs.get("device")) is not None:
        return torch.device(device)
    if name == "to":
        other = args[1] if len(args) > 1 else kwargs.get("other")
        if isinstance(other, Tensor):
            return other.device
        if isinstance(other, (str, torch.device)):
            return torch.device(other)
    if name in (
        "to",
        "_to_copy",
        "copy_",
        "type_as",
        "index_put_",
        "index",
        "__getitem__",
        "__setitem__",
    ):
        return args[0].device
    return CUDA if _sims(leaves) else torch.device("cpu")


def _refuse_mixed(name: str, args: tuple[Any, ...], kwargs: dict) -> None:
    if name in ("numpy", "__array__"):
        raise TypeError(
            f"can't convert {CUDA} device type tensor to numpy. Use Tensor.cpu() to copy the "
            "tensor to host memory first."
        )
    if name in _ACROSS:
        return
    leaves = tree_flatten((args, kwargs))[0]
    for x in leaves:
        if isinstance(x, torch.Generator) and x.device.type != "cuda" and _sims(leaves):
            raise RuntimeError(
                f"Expected a 'cuda' device type for generator but found '{x.device}'"
            )
    if name in _INDEXING:
        _refuse_mixed_indices(name, args)
        return
    tensors = [x for x in leaves if isinstance(x, Tensor)]
    if name not in _SAME_DEVICE and any(isinstance(x, SimulatedTensor) for x in tensors):
        tensors = [x for x in tensors if x.ndim or isinstance(x, SimulatedTensor)]
    _refuse_several(name, tensors)


def _refuse_mixed_indices(name: str, args: tuple[Any, ...]) -> None:
    own = args[0].device
    for index in tree_flatten(args[1])[0]:
        if isinstance(index, SimulatedTensor) and own.type != "cuda":
            raise RuntimeError(
                "indices should be either on cpu or on the same device as the indexed tensor (cpu)"
            )
    # Without a tensor among the indices, an assignment copies, which works across devices.
    if name == "__getitem__" or len(args) < 3 or not isinstance(args[2], Tensor):
        return
    by_tensor = any(isinstance(index, Tensor) for index in tree_flatten(args[1])[0])
    scalar = args[2].ndim == 0 and (own.type == "cuda" or args[2].device.type == "cpu")
    if by_tensor and not scalar:
        _refuse_several(name, [args[0], args[2]])


def _refuse_several(name: str, tensors: list[Tensor]) -> None:
    found = sorted({str(x.device) for x in tensors})
    if len(found) > 1:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, "
            f"{' and '.join(found)}! (when calling {name})"
        )


def _set_data(_: Callable, own: Tensor, value: Tensor) -> None:
    if not isinstance(own, SimulatedTensor) or not isinstance(value, SimulatedTensor):
        raise NotImplementedError("the data of a tensor are replaced by those of another device")
    own.held = value.held


_SPECIAL: dict[str, Callable] = {
    "device": lambda _, x: x.device,
    "is_cuda": lambda _, x: True,
    "is_cpu": lambda _, x: False,
    "get_device": lambda _, x: 0,
    # So that `Module.to` makes new parameters instead of exchanging the data of the old ones.
    "_has_compatible_shallow_copy_type": lambda *_: False,
    "data": lambda _, x: SimulatedTensor(x.held),
    "set_data": _set_data,
    "set_requires_grad": lambda func, x, value: func(x, value),
    "set_grad": lambda func, x, value: func(x, value),
    "__iter__": lambda _, x: iter([SimulatedTensor(row) for row in x.held.unbind(0)]),
}


class HostReads:
    """The places in the project's code at which the host waited for the device, with their number.

    None where nothing is counted.
    """

    found: Counter[str] | None = None

    @classmethod
    def note(cls, name: str, args: tuple, onto: torch.device) -> None:
        """Count a call of a function if it makes the host wait."""
        if cls.found is None:
            return
        moved = name in ("to", "copy_", "_to_copy", "__setitem__") and onto.type == "cpu"
        by_mask = name in _INDEXING and any(
            isinstance(x, SimulatedTensor) and x.dtype == torch.bool
            for x in tree_flatten(args[1])[0]
        )
        if name in _READ or by_mask or (moved and any(map(_is_simulated, args))):
            cls.found[f"{_place()}: {name}"] += 1

    @classmethod
    @contextmanager
    def counted(cls) -> Iterator[Counter[str]]:
        """Count within the block."""
        cls.found = Counter()
        try:
            yield cls.found
        finally:
            cls.found = None


def _is_simulated(x: Any) -> bool:
    return isinstance(x, SimulatedTensor)


def _place() -> str:
    for frame in reversed(traceback.extract_stack()):
        if "/pipeline/" in frame.filename and "/tests/" not in frame.filename:
            return f"{frame.filename.split('/pipeline/')[-1]}:{frame.lineno} {frame.name}"
    return "elsewhere"


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
    """Let "cuda" be the simulated device within the block, in all threads."""
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
