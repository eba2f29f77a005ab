"""What was found, and how a question is asked that may never be answered."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pipeline.errors import first_line

Answer = TypeVar("Answer")

SECONDS = 45.0  # what does not answer by then is reported as that


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. said: how it is; where it is not good, also what to do."""

    what: str
    good: bool
    said: str


def within(seconds: float, question: Callable[[], Answer]) -> Answer:
    """The answer to a question; TimeoutError if there is none by then, and it is left alone."""
    answers: list[Answer] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            answers.append(question())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return answers[0]


def brief(error: Exception) -> str:
    """The first line of what an error says, to be followed by a colon."""
    return first_line(error).rstrip(": ")
