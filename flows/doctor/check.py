"""Check: the result of one check; and calls with a time limit."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pipeline.errors import first_line

Answer = TypeVar("Answer")

SECONDS = 45.0  # the time limit of each check, long enough for a slow start of Ray


@dataclass(frozen=True)
class Check:
    """The result of one check. message: what was found and, if it failed, what to do.

    of_request: True for a fault for which the run of the analysis would be refused.
    """

    name: str
    ok: bool
    message: str
    of_request: bool = False


def call_within(seconds: float, function: Callable[[], Answer]) -> Answer:
    """Return the result of a function, or raise TimeoutError after so many seconds."""
    answers: list[Answer] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            answers.append(function())
        except Exception as error:
            errors.append(error)

    # A blocking network call cannot be interrupted. A daemon thread does not keep the process from
    # exiting, as the threads of a ThreadPoolExecutor would.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return answers[0]


def reason(error: Exception) -> str:
    """Return the first line of an error, without a colon or space at its end."""
    return first_line(error).rstrip(": ")
