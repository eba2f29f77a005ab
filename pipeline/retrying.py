"""What may be tried again: a request (`may_pass`), and a checkpoint that failed (`TRANSIENT`).

A place that is busy or a transfer that was cut is no reason to stop. The libraries beneath retry
some of it themselves, each in its own way; what still fails comes here.
"""

import errno
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from botocore.exceptions import (
    EndpointConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
)
from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from pipeline.errors import CheckpointError, InputError, first_line

Result = TypeVar("Result")

ATTEMPTS = 6
FIRST_WAIT = 0.5  # seconds; doubled each time, with a random part, up to LONGEST_WAIT
LONGEST_WAIT = 30.0

_QUERY = re.compile(r"\?[^\s'\")]+")

_DENIED = (401, 403)
_PASSING = (408, 425, 429)  # beside all of 500 and above
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_NO_KEYS = (NoCredentialsError, PartialCredentialsError)
_FINAL = (
    CheckpointError, InputError, FileNotFoundError, PermissionError, NotADirectoryError,
    TypeError, KeyError, AttributeError, OfflineModeIsEnabled, *_NO_KEYS,
)  # fmt: skip
_ABSENT = (ConnectionRefusedError, socket.gaierror, EndpointConnectionError)

# Trying a whole checkpoint again may help with these; whatever else was raised would be again.
OUT_OF_MEMORY = (MemoryError, torch.OutOfMemoryError)
TRANSIENT = (OSError, *OUT_OF_MEMORY)

_answered = threading.Event()  # set once any place has answered this process


def persistently(call: Callable[[], Result]) -> Result:
    """The result of `call`, made again while it fails in a way that may pass.

    What another try cannot help (absent, denied, a full disk) is raised at once; so is a refused
    connection as long as no place has ever answered. The rest is raised after the last attempt.
    """
    attempts = Retrying(
        retry=retry_if_exception(
            lambda error: may_pass(error) and (_answered.is_set() or not is_absent(error))
        ),
        wait=wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT),
        stop=stop_after_attempt(ATTEMPTS),
        reraise=True,
    )
    result = attempts(call)
    _answered.set()
    return result


def is_absent(error: BaseException | None) -> bool:
    """Whether there is nobody at the address: a refused connection, or a name that is unknown."""
    while error is not None:
        if isinstance(error, _ABSENT):
            return True
        error = error.__cause__ or error.__context__
    return False


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed if it is made again."""
    status = status_of(error)
    if status is not None:
        return status >= 500 or status in _PASSING
    if isinstance(error, OSError) and error.errno in _FULL:
        return False
    return isinstance(error, Exception) and not isinstance(error, _FINAL)


def status_of(error: BaseException | None) -> int | None:
    """The HTTP status that an error is about, of itself or of what caused it; None without."""
    while error is not None:
        response = getattr(error, "response", None)
        status = getattr(response, "status_code", None)
        if isinstance(response, dict):  # botocore's
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if isinstance(status, int):
            return status
        error = error.__cause__
    return None


@contextmanager
def spoken_of(
    uri: str, what: str, refusal: type[InputError] | type[CheckpointError]
) -> Iterator[None]:
    """Turn a place's refusal into one sentence: `what` is absent, or access is denied.

    Raises `refusal`. What may pass goes on as an OSError that names the place.
    """
    try:
        yield
    except (CheckpointError, InputError):
        raise
    except Exception as error:
        status = status_of(error)
        if isinstance(error, OfflineModeIsEnabled):
            raise refusal(
                f"{uri}: HF_HUB_OFFLINE is set: unset it, or give a local copy of the run"
            ) from error
        if isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError):
            raise refusal(
                f"{uri}: there is no such repository, or it is private: check the address, or set "
                "HF_TOKEN"
            ) from error
        if isinstance(error, FileNotFoundError | NotADirectoryError) or status == 404:
            raise refusal(f"{uri}: there is no such {what}: check the address") from error
        if isinstance(error, (PermissionError, *_NO_KEYS)) or status in _DENIED:
            raise refusal(
                f"{uri}: access is denied: set the place's credentials in the environment or in "
                "its own credentials file"
            ) from error
        if isinstance(error, OSError) and str(error).startswith(uri):
            raise
        advice = "check the address and the network" if is_absent(error) else "try again later"
        raise OSError(f"{uri}: cannot be reached ({_brief(error)}): {advice}") from error


def _brief(error: Exception) -> str:
    """The first line, without what follows the "?" of an address: it may be a signature."""
    return _QUERY.sub("?...", first_line(error))[:200]
