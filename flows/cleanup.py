"""End every process that a run started and delete its temporary files, however the run ends.

A process that is killed cannot clean up after itself: the Prefect server and Ray's processes would
live on, and hold the pipes of whoever waits for the run's output. Therefore a run starts one small
process, `flows.cleaner`, which kills what is left of the run when that has ended.

What belongs to a run is found by a mark in the environment, which children inherit.
"""

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from flows import cleaner
from flows.environment import require, temporary_folder, variable

_MARKS = "ONTOGENY_RUNS"  # of the run, and of those that it was started by


@contextmanager
def covered() -> Iterator[Path]:
    """Clean up, when this process has ended, after all that is started during the block.

    Yields a private folder for its temporary files, which is deleted then. Raises InputError if
    this environment has a fault, see `flows.environment`.
    """
    mark, folder = _start()
    marks = ":".join(filter(None, (os.environ.get(_MARKS), mark)))
    # Ray's processes set their titles, and would write them over the environment that others see.
    with variable(_MARKS, marks), variable("SPT_NOENV", "1"):
        yield folder


@cache
def _start() -> tuple[str, Path]:
    """Start the process that cleans up after this one; return its mark and the private folder."""
    require()
    mark = secrets.token_hex(16)
    folder = Path(tempfile.mkdtemp(prefix="ontogeny-", dir=temporary_folder()))
    reading, writing = os.pipe()
    process = subprocess.Popen(
        # Isolated: no module in the working folder or on PYTHONPATH is imported.
        [sys.executable, "-I", "-S", cleaner.__file__, mark, str(folder)],
        stdin=reading,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        # Without marks, else it would be killed together with a run that has started this one.
        env={name: value for name, value in os.environ.items() if name != _MARKS},
        start_new_session=True,  # a signal to the run's process group does not reach it
    )
    process.returncode = 0  # it outlives this process: nothing waits for it
    os.close(reading)
    # The pipe is open as long as this object lives: in the handler of forked children, which would
    # keep it open if they outlived this process.
    os.register_at_fork(after_in_child=os.fdopen(writing, "wb").close)
    return mark, folder
