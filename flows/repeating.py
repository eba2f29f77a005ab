"""Call a function again and again while a block runs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeated(call: Callable[[], object], every: float, wait: float | None = None) -> Iterator[None]:
    """Call a function from a thread every so many seconds during the block.

    wait: seconds that the end of the block waits for a call in progress (None: until it returns).
    """
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(every):
            call()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=wait)
