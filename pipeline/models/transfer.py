"""Copy weights to a GPU while it computes: through pinned memory, on a stream of its own.

A copy from ordinary memory makes the device and the copying thread wait. Here the thread that has
read a checkpoint copies it ahead, so that replacing the weights is left with waiting for an event.
If computing runs out of memory, what was copied ahead goes back to the main memory.
"""

import logging
import threading
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from pipeline.errors import first_line
from pipeline.outside import is_out_of_memory

_log = logging.getLogger(__name__)

# Bytes of each of two pinned buffers: one is filled while the other is sent. Pinning takes longer
# than copying, so that they are kept instead of pinning each file's tensors.
_BUFFER = 1 << 25

Bytes = UInt8[Tensor, " byte"]


class CopiedAhead(dict[str, Tensor]):
    """Weights by name, of which some are on the device as soon as an event has happened there."""

    def __init__(self, weights: Mapping[str, Tensor], copied: Mapping[str, Tensor], ready: Any):
        super().__init__({**weights, **copied})
        self._copied, self._ready = dict(copied), ready

    def await_on(self, stream: Any) -> None:
        """Let what is queued on a stream from now on wait for the copies, which it then uses."""
        self._ready.wait(stream)
        for tensor in self._copied.values():
            # Their memory belongs to the stream of copies, which else would use it again while
            # this stream still reads from it.
            if tensor.is_cuda:
                tensor.record_stream(stream)

    def move_to_main_memory(self) -> int:
        """Replace the copies by tensors of the same numbers there; return the bytes of the copies.

        Names that share a copy share its tensor. Where memory runs out, all copies stay.
        """
        self._ready.synchronize()  # else numbers that are still on their way would be missing
        copies = {id(tensor): tensor for tensor in self._copied.values()}
        moved = {key: tensor.to("cpu", copy=True) for key, tensor in copies.items()}
        self.update({name: moved[id(tensor)] for name, tensor in self._copied.items()})
        self._copied.clear()
        return sum(tensor.nbytes for tensor in moved.values())


class Transfer:
    """Copies the weights of one checkpoint after another to a device, while it computes.

    reserve: bytes that computing needs beside two sets of weights. Where there is less memory,
    weights stay where they are; the first time is logged, and so is the end of copying for lack of
    memory. One thread at a time may call `ahead`. With the CPU as the device, which is for tests,
    all is the same, but nothing happens at a time.
    """

    def __init__(self, device: torch.device, reserve: int, buffer: int = _BUFFER) -> None:
        self._device, self._reserve, self._buffer = device, reserve, buffer
        self._backend = torch.get_device_module(device)
        self._stream: Any = self._backend.Stream(device)
        self._buffers: _Buffers | None = None
        self._stopped = self._told = False
        self._copying = threading.Lock()
        # Weakly: weights that are given up before they are in the model are not kept.
        self._waiting: weakref.ref[CopiedAhead] | None = None

    def ahead(
        self, weights: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype]
    ) -> Mapping[str, Tensor]:
        """Copy the tensors named in `dtypes` to the device, in these dtypes; return all weights.

        Returns without waiting for the last copies. Names that share a tensor share its copy.
        """
        with self._copying:
            found = self._copied_if_possible(weights, dtypes)
            if isinstance(found, CopiedAhead):
                self._waiting = weakref.ref(found)
            return found

    def _copied_if_possible(
        self, weights: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype]
    ) -> Mapping[str, Tensor]:
        needed = sum(weights[name].numel() * dtype.itemsize for name, dtype in dtypes.items())
        if not dtypes:
            self._tell_once("none of their tensors goes into the model as it is")
        if self._stopped or not dtypes or not self._has_room(needed):
            return weights
        try:
            with torch.no_grad(), self._backend.stream(self._stream):
                copied = self._copied(weights, dtypes)
                ready = self._backend.Event()
                ready.record(self._stream)
            return CopiedAhead(weights, copied, ready)
        except Exception as error:
            # Without buffers, no memory could be pinned, for which there are many errors.
            if self._buffers is not None and not is_out_of_memory(error):
                raise
            reason = first_line(error)
        # Outside the handler: the traceback refers to the copies, which could not be freed.
        self._stop(f"one could not be copied ({reason})")
        return weights

    def free(self, why: str) -> None:
        """Move what was last copied ahead to main memory; copy nothing ahead from now on.

        Waits for what is being copied. The caller makes sure that no other thread puts it into a
        model meanwhile. The model will copy it to the device again.
        """
        with self._copying:
            self._stop(why)
            waiting = self._waiting and self._waiting()
            self._waiting = None
            if waiting is not None:
                self._move(waiting)

    def _move(self, waiting: CopiedAhead) -> None:
        try:
            moved = waiting.move_to_main_memory()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = first_line(error)
            _log.warning("weights copied to %s ahead stay there: %s", self._device, reason)
        else:
            _log.warning(
                "weights copied to %s ahead are moved to main memory, freeing %s bytes",
                self._device, f"{moved:,}",
            )  # fmt: skip

    def await_copies(self, weights: Mapping[str, Tensor]) -> None:
        """Let the calling thread's stream wait for weights that were copied ahead, if they were.

        They then belong to the model: `free` leaves them where they are.
        """
        if isinstance(weights, CopiedAhead):
            with self._copying:
                self._waiting = None
            weights.await_on(self._backend.current_stream(self._device))

    def _stop(self, why: str) -> None:
        """Copy nothing ahead from now on."""
        if not self._stopped:
            self._stopped = True
            self._tell(why)

    def _has_room(self, needed: int) -> bool:
        free = free_bytes(self._device)
        if free is None or needed + self._reserve <= free:
            return True
        self._tell_once(
            f"a second set of weights takes {needed:,} bytes and computing {self._reserve:,}, and "
            f"{free:,} are free"
        )
        return False

    def _tell_once(self, why: str) -> None:
        if not self._told:
            self._told = True
            self._tell(why)

    def _tell(self, why: str) -> None:
        _log.warning("checkpoints are not copied to %s while it computes: %s", self._device, why)

    def _copied(
        self, weights: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype]
    ) -> dict[str, Tensor]:
        if self._buffers is None:
            self._buffers = _Buffers(self._device, self._backend, self._stream, self._buffer)
        made: dict[tuple, Tensor] = {}
        found = {}
        for name, dtype in dtypes.items():
            key = (*_place(weights[name]), dtype)
            if key not in made:
                made[key] = self._buffers.sent(weights[name]).to(dtype)
            found[name] = made[key]
        return found


def transfer_to(device: torch.device, reserve: int) -> Transfer | None:
    """Return a transfer to a GPU; None for a CPU, which has the weights where they were read."""
    return Transfer(device, reserve) if device.type == "cuda" else None


class _Buffers:
    """Two pinned buffers in turn, through which tensors of any size are sent to a device."""

    def __init__(self, device: torch.device, backend: Any, stream: Any, size: int) -> None:
        self._device, self._stream = device, stream
        pinned = device.type == "cuda"
        self._buffers = [torch.empty(size, dtype=torch.uint8, pin_memory=pinned) for _ in range(2)]
        # Blocking: a thread that spins while it waits would take a core from the other one.
        blocking = {"blocking": True} if pinned else {}
        self._sent = [backend.Event(**blocking) for _ in range(2)]
        self._turn = 0

    def sent(self, tensor: Tensor) -> Tensor:
        """Return a tensor on the device, with the same content once the stream is there."""
        target = torch.empty(tensor.shape, dtype=tensor.dtype, device=self._device)
        size = len(self._buffers[0])
        parts = zip(_bytes(tensor).split(size), _bytes(target).split(size), strict=True)
        for part, of_target in parts:
            self._send(part, of_target)
        return target

    def _send(self, part: Bytes, target: Bytes) -> None:
        buffer, sent = self._buffers[self._turn][: len(part)], self._sent[self._turn]
        self._turn = 1 - self._turn
        sent.synchronize()  # else what it still sends would be overwritten
        buffer.copy_(part)
        target.copy_(buffer, non_blocking=True)
        sent.record(self._stream)


def _bytes(tensor: Tensor) -> Bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _place(tensor: Tensor) -> tuple:
    """Return what two names share whose tensors are one and the same."""
    return (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes that this process could take on a GPU; None for other devices."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    # What torch keeps for itself counts as free: it gives it back where memory runs out.
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
