"""Count the places in the project's code at which the host waits for a GPU."""

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils._pytree import tree_flatten

from tests.device_refusals import INDEXING, is_on_gpu

# Functions that wait for the device, since the host needs their result.
_READ = {
    "item", "tolist", "__float__", "__int__", "__bool__", "__index__", "cpu", "nonzero", "argwhere",
    "equal", "allclose", "masked_select", "unique", "_local_scalar_dense", "is_nonzero", "bincount",
    "unique_consecutive", "__contains__", "__complex__",
}  # fmt: skip


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
        by_mask = name in INDEXING and any(
            is_on_gpu(x) and x.dtype == torch.bool for x in tree_flatten(args[1])[0]
        )
        if name in _READ or by_mask or (moved and any(map(is_on_gpu, args))):
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


def _place() -> str:
    for frame in reversed(traceback.extract_stack()):
        if "/pipeline/" in frame.filename and "/tests/" not in frame.filename:
            return f"{frame.filename.split('/pipeline/')[-1]}:{frame.lineno} {frame.name}"
    return "elsewhere"
