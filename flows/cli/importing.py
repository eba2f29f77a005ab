"""Import many modules at once."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """Collect no garbage while the block imports modules, and never look at what they made.

    None of it is garbage, and looking, then and when the process ends, takes a good part of the
    time of a short command.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():  # once: in a long process, later garbage would never be freed
            gc.freeze()
        if was_enabled:
            gc.enable()
