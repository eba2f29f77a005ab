"""Memory that runs out while a checkpoint is computed: once more, with half the batch."""

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from pipeline.analysis.transient import OUT_OF_MEMORY
from pipeline.checkpoints import Checkpoint
from pipeline.errors import CheckpointError, first_line
from pipeline.outside import is_out_of_memory

_log = logging.getLogger(__name__)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Convert an error for lack of memory that only its message identifies to a MemoryError.

    The allocator of CUDA has a class for it (`torch.OutOfMemoryError`), that of the CPU has none.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, OUT_OF_MEMORY) or not is_out_of_memory(error):
            raise
        raise MemoryError(first_line(error)) from None


def halved_if_needed(
    compute: Callable[[bool], None], checkpoint: Checkpoint, free: Callable[[], None]
) -> bool:
    """Compute a checkpoint; if memory runs out, free some and retry with half the batch size.

    compute: takes whether batches are to be halved. Returns whether they were. Raises
    CheckpointError where memory runs out with half the batch too.
    """
    try:
        compute(False)
        return False
    except OUT_OF_MEMORY as error:
        reason = first_line(error)
    # Outside the handler: the traceback of the error refers to the tensors of the batch that
    # was too large, which could not be freed.
    _log.warning("step %d: out of memory, halving the batch: %s", checkpoint.step, reason)
    free()
    gc.collect()  # a cycle of references may keep the tensors
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # cached blocks may be too fragmented for the smaller batch
    try:
        compute(True)
        return True
    except OUT_OF_MEMORY as error:
        raise CheckpointError(
            f"step {checkpoint.step} ({checkpoint.uri}): out of memory, also with half the "
            f"batch ({first_line(error)}): lower workers.memory, or have fewer workers share "
            "the device"
        ) from error
