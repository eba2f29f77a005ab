"""Work on parts of a pass in several threads.

Threads within an operation wait for each other at its end, hundreds of times in a pass; where one
of their cores has other work to do, all wait for it each time. Threads that take one part after
another, and compute each alone, wait once, at the end.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from functools import partial
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


def threads_on(device: torch.device) -> int:
    """Return how many threads compute on a device: torch's own number on a CPU, one on a GPU."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def in_threads(
    work: Callable[[Part], Result], parts: Sequence[Part], device: torch.device
) -> list[Result]:
    """Return `work(part)` of every part, in order; in inference mode if the caller is.

    The caller's context variables hold in all threads, so that what they log is logged as its own.
    Where there are fewer parts than threads, the others are shared among the operations.
    """
    threads = threads_on(device)
    at_once = min(threads, len(parts))
    if at_once <= 1:
        return [work(part) for part in parts]

    mode = torch.is_inference_mode_enabled()

    def compute(context: Context, part: Part) -> Result:
        with torch.inference_mode(mode):
            return context.run(work, part)

    # The mode and the number of threads of an operation are settings of the thread that calls it.
    set_own = partial(torch.set_num_threads, threads // at_once)
    try:
        with ThreadPoolExecutor(at_once, initializer=set_own) as executor:
            # One for each part, because only one thread at a time can run in a context.
            return list(executor.map(compute, [copy_context() for _ in parts], parts))
    finally:
        # Threads that begin later start with the setting that was made last.
        torch.set_num_threads(threads)
