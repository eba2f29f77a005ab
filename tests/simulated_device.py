"""A second device for tests on machines without one: "cuda", whose tensors are computed on the CPU.

A tensor of this device says that it is on "cuda:0", and holds a CPU tensor. Each function of torch
that receives one checks first what a GPU would refuse: operands on different devices (CPU tensors
without dimensions are allowed to elementwise functions, and CPU indices to indexing, as in torch),
a conversion to NumPy, a generator of another device. It then computes on the CPU. So a test finds
a tensor that was made on the wrong device, without a GPU; it shows nothing about rounding or speed.

`device_refusals.py` says what is refused, `cuda_kernels.py` has the fused kernels, `host_reads.py`
counts where the host waits, and `simulated_cuda.py` lets torch make such tensors for "cuda".
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from tests.cuda_kernels import KERNELS
from tests.device_refusals import refuse_mixed
from tests.host_reads import HostReads

CUDA = torch.device("cuda:0")

# Properties and methods of the tensor itself instead of its numbers.
_OWN = {
    "requires_grad", "requires_grad_", "is_leaf", "grad", "grad_fn", "retain_grad", "_version",
    "output_nr", "names", "__hash__", "__class__", "_is_param", "_backward_hooks",
    "_post_accumulate_grad_hooks",
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
    refuse_mixed(name, args, kwargs)
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
        other = (*args[1:2], kwargs.get("other"))[0]
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
