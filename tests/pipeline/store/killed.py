"""Processes that write to a store and are killed, as by `kill -9`, before a chosen operation."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable
from typing import Any

from tests.pipeline.store import synthetic

# Children of a fork server share no thread or event loop with the tests.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["pipeline.query.aggregates"])  # its imports take two seconds

_CHANGES = {"os.link", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}


def process_of(function: Callable[..., Any], *args: Any) -> Any:
    """Return a process, not started yet, with the current environment of this one.

    By default it would have the environment in which the fork server was started.
    """
    return CONTEXT.Process(target=_in_environment, args=(dict(os.environ), function, args))


def operations(function: Callable[..., Any], *args: Any) -> int:
    """Return the number of changes to the file system that a function makes."""
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process = process_of(_count, sender, function, args)
    process.start()
    sender.close()
    counted = receiver.recv()
    process.join()
    assert process.exitcode == 0
    return counted


def killed_before(operation: int, function: Callable[..., Any], *args: Any) -> None:
    """Run a function in a process that is killed before its n-th change to the file system."""
    process = process_of(_die, operation, function, args)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)


def side_by_side(function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> None:
    """Run a function in one process for each tuple of arguments, all at once."""
    processes = [process_of(function, *args) for args in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(processes)


def run(uri: str, steps: list[int]) -> None:
    synthetic.run(uri, [synthetic.scores()], steps)


def write_rows(uri: str, steps: list[int], number: int) -> None:
    """Write rows of scores that a version planned."""
    store = synthetic.Store(uri)
    for step in steps:
        synthetic.write(store, synthetic.scores(), step, number=number)


def _in_environment(
    environment: dict[str, str], function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    function(*args)


def watch(changed: Callable[[], None]) -> None:
    """Call a function before each change that this process makes to the file system."""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        writes = (
            event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if (event in _CHANGES or writes) and not str(args[0]).startswith("/dev"):
            changed()

    sys.addaudithook(hook)


def _count(sender: Any, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    changes: list[None] = []
    watch(lambda: changes.append(None))
    function(*args)
    sender.send(len(changes))


def _die(operation: int, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    left = [operation]

    def changed() -> None:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    watch(changed)
    function(*args)
