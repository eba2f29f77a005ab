"""Python's garbage collector, which would examine every imported module again and again.

With torch, Prefect and Ray there are a million objects that live as long as the process. To look
through them takes a fifth of the time of their imports, and seconds of processor time at the end.
"""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected_imports() -> Iterator[None]:
    """Collect nothing while the block imports modules, and never what was created in it."""
    before = len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        # Not where they had been imported: in a long process, garbage would pile up.
        if len(sys.modules) > before:
            gc.freeze()
        gc.enable()


def collect_nothing_at_exit() -> None:
    """Leave the memory of this process to the system when it ends; `__del__` may not be called."""
    atexit.register(gc.freeze)
