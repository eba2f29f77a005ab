"""Retries of requests (`persistently`), and which errors may pass (`may_pass`).

A busy server or an interrupted transfer should not end a run. botocore and huggingface_hub retry
some errors themselves; those that remain are handled here.
"""

import errno
import logging
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.errors import CheckpointError, InputError, first_line

if TYPE_CHECKING:
    from tenacity import RetryCallState

Result = TypeVar("Result")

# Six attempts wait up to 15.5 seconds in all: rate limits per second and short outages pass, and a
# longer outage is reported before a user takes the run for hung. The waits are random, so that
# workers that failed together do not ask again together.
ATTEMPTS = 6
FIRST_WAIT = 0.5  # seconds; the upper bound, which doubles with each attempt
LONGEST_WAIT = 30.0
# A server that counts requests may state after how many seconds it answers again: the Hub counts
# them for five minutes (Hub documentation, "Rate limits").
LONGEST_STATED_WAIT = 300.0
_TOLD_FROM = 5.0  # seconds; shorter waits are not worth a line

# In the Hub's header RateLimit, "api";r=0;t=55: no request is left, and the seconds until more are.
_LIMIT = re.compile(r"\br=0\s*;\s*t=(\d{1,6})\b")
_logger = logging.getLogger(__name__)

_QUERY = re.compile(r"\?[^\s'\")]+")

_DENIED = (401, 403)
_PASSING = (408, 425, 429)  # timeout, too early, too many requests; and all of 500 and above
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_FINAL = (
    CheckpointError, InputError, FileNotFoundError, PermissionError, NotADirectoryError,
    TypeError, KeyError, AttributeError,
)  # fmt: skip
_ABSENT = (ConnectionRefusedError, socket.gaierror)
# Errors of the clients of S3 and of the Hub, which are not always installed.
_BOTOCORE = "botocore.exceptions"
_HUB = "huggingface_hub.errors"

# Set once any server has answered this process. Until then a refused connection means a wrong
# address, and retrying would only delay the message.
_answered = threading.Event()


def is_one_of(error: BaseException, module: str, *names: str) -> bool:
    """Return whether an error is of a class of a module, which is not imported for it.

    What nothing has imported has raised no error.
    """
    loaded = sys.modules.get(module)
    classes = [getattr(loaded, name, None) for name in names]
    return isinstance(error, tuple(one for one in classes if one is not None))


def lacks_credentials(error: BaseException) -> bool:
    """Return whether S3's client found no credentials."""
    return is_one_of(error, _BOTOCORE, "NoCredentialsError", "PartialCredentialsError")


def persistently(call: Callable[[], Result]) -> Result:
    """Return the result of `call`, retried with exponential backoff after transient errors.

    Permanent errors (absent, denied, a full disk) are raised at once; so is a refused connection
    as long as no server has ever answered. Others are raised after the last attempt. Where the
    server states how long to wait, that is waited, up to `LONGEST_STATED_WAIT`.
    """
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

    own = wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT)
    attempts = Retrying(
        retry=retry_if_exception(
            lambda error: may_pass(error) and (_answered.is_set() or not is_absent(error))
        ),
        wait=lambda state: max(own(state), _stated_wait(state)),
        stop=stop_after_attempt(ATTEMPTS),
        reraise=True,
    )
    result = attempts(call)
    _answered.set()
    return result


def _stated_wait(state: "RetryCallState") -> float:
    """Return the seconds after which a server that is asked too often answers again; 0 if unknown.

    By the headers Retry-After (in seconds) and RateLimit of an answer with status 429 or 503.
    """
    error = state.outcome.exception() if state.outcome else None
    if error is None or status_of(error) not in (429, 503):
        return 0.0
    headers = {name.lower(): value for name, value in _headers_of(error).items()}
    match = _LIMIT.search(str(headers.get("ratelimit", "")))
    stated = match[1] if match else str(headers.get("retry-after", "")).strip()
    if not (stated.isascii() and stated.isdecimal()) or not int(stated):
        return 0.0
    # A second more, since the server rounds.
    wait = min(int(stated) + 1.0, LONGEST_STATED_WAIT)
    if wait >= _TOLD_FROM:
        _logger.warning("too many requests: waiting %.0f s, as the server asks", wait)
    return wait


def _headers_of(error: BaseException | None) -> Mapping[str, Any]:
    """Return the headers of the answer that an error, or one that caused it, is of."""
    while error is not None:
        response: Any = getattr(error, "response", None)
        if isinstance(response, dict):  # botocore's
            return response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        if isinstance(headers := getattr(response, "headers", None), Mapping):
            return headers
        error = error.__cause__
    return {}


def is_absent(error: BaseException | None) -> bool:
    """Return whether no server answers at the address: connection refused, or unknown host."""
    while error is not None:
        if isinstance(error, _ABSENT) or is_one_of(error, _BOTOCORE, "EndpointConnectionError"):
            return True
        error = error.__cause__ or error.__context__
    return False


def may_pass(error: BaseException) -> bool:
    """Return whether the same request may succeed if it is made again."""
    status = status_of(error)
    if status is not None:
        return status >= 500 or status in _PASSING
    if isinstance(error, OSError) and error.errno in _FULL:
        return False
    if lacks_credentials(error) or is_one_of(error, _HUB, "OfflineModeIsEnabled"):
        return False
    return isinstance(error, Exception) and not isinstance(error, _FINAL)


def status_of(error: BaseException | None) -> int | None:
    """Return the HTTP status of an error or of one that caused it; None if there is none."""
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
def translated_errors(
    uri: str, what: str, refusal: type[InputError] | type[CheckpointError]
) -> Iterator[None]:
    """Translate errors of storage clients into one sentence each.

    Raises `refusal` where `what` is absent or access is denied, and an OSError that names the
    address for all other errors, which may be transient.
    """
    try:
        yield
    except (CheckpointError, InputError):
        raise
    except Exception as error:
        status = status_of(error)
        if is_one_of(error, _HUB, "OfflineModeIsEnabled"):
            raise refusal(
                f"{uri}: HF_HUB_OFFLINE is set: unset it, or give a local copy of the run"
            ) from error
        if is_one_of(error, _HUB, "GatedRepoError"):  # a kind of RepositoryNotFoundError
            raise refusal(
                f"{uri}: the repository is gated: accept its terms on its page, and set HF_TOKEN "
                "to a token of that account (or run hf auth login)"
            ) from error
        if is_one_of(error, _HUB, "RepositoryNotFoundError"):
            raise refusal(
                f"{uri}: there is no such repository, or it is private: check the name, or log in "
                "with hf auth login or HF_TOKEN"
            ) from error
        if isinstance(error, FileNotFoundError | NotADirectoryError) or status == 404:
            raise refusal(f"{uri}: there is no such {what}: check the address") from error
        denied = isinstance(error, PermissionError) or status in _DENIED
        if denied or lacks_credentials(error):
            raise refusal(
                f"{uri}: access is denied: set the place's credentials in the environment or in "
                "its own credentials file"
            ) from error
        if isinstance(error, OSError) and str(error).startswith(uri):
            raise
        advice = "check the address and the network" if is_absent(error) else "try again later"
        raise OSError(f"{uri}: cannot be reached ({_brief(error)}): {advice}") from error


def _brief(error: Exception) -> str:
    """Return the first line of an error, without the query of a URL: it may hold a signature."""
    return _QUERY.sub("?...", first_line(error))[:200]
