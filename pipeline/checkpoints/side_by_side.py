"""Work on many items in several threads, with little overhead for each."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_THREADS = 8  # concurrent requests for listings and small files
_SHARES = 16  # that each thread takes: with fewer, some would wait for the last one


def side_by_side(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return `work(item)` for all items, in order."""
    # Several items at a time: on a local disk each takes no longer than handing it to a thread.
    size = max(1, len(items) // (_THREADS * _SHARES))
    groups = [items[start : start + size] for start in range(0, len(items), size)]
    with ThreadPoolExecutor(_THREADS) as threads:
        done = threads.map(lambda group: [work(item) for item in group], groups)
        return [result for results in done for result in results]
