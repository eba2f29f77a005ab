"""The HTTP client of huggingface_hub, with the project's own retries in place of the library's.

huggingface_hub retries some requests itself, up to five times, within each of our own attempts. Its
default client is therefore replaced by one that, during our own requests, raises errors which the
library does not retry. Requests of other libraries in the same process are left as they are.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import httpx2
from huggingface_hub import __version__, set_client_factory
from huggingface_hub.utils import hf_raise_for_status
from huggingface_hub.utils._http import default_client_factory

from pipeline.errors import InputError
from pipeline.retrying import is_absent, persistently

Result = TypeVar("Result")

# Seconds. The library's own requests for listings have no limit at all.
_TIMEOUTS = {"connect": 10.0, "read": 60.0, "write": 60.0, "pool": 60.0}
_RETRIED_BY_LIBRARY = (408, 429, 500, 502, 503, 504)

_is_ours: ContextVar[bool] = ContextVar("is_ours", default=False)


def asked(call: Callable[[], Result]) -> Result:
    """Return the result of requests to the Hub, retried as by `retrying.persistently` alone."""
    return persistently(lambda: _without_library_retries(call))


def _without_library_retries(call: Callable[[], Result]) -> Result:
    before = _is_ours.set(True)
    try:
        return call()
    except UnicodeEncodeError as error:  # of a header; addresses are quoted
        raise InputError(
            "the token of the Hub holds a character that is not ASCII: set HF_TOKEN again, or log "
            "in with hf auth login"
        ) from error
    finally:
        _is_ours.reset(before)


def _client() -> httpx2.Client:
    # The library has no setting for its retries, and its default factory is private.
    client = default_client_factory()
    send = client.send

    def send_once(request: httpx2.Request, *arguments: Any, **options: Any) -> httpx2.Response:
        if not _is_ours.get():
            return send(request, *arguments, **options)
        limits = request.extensions.get("timeout") or {}
        limits = {name: limits.get(name) or most for name, most in _TIMEOUTS.items()}
        request.extensions = {**request.extensions, "timeout": limits}
        with _not_retried_by_library():
            response = send(request, *arguments, **options)
            if response.status_code in _RETRIED_BY_LIBRARY:
                response.read()
                hf_raise_for_status(response)
        return response

    client.send = send_once  # pyright: ignore[reportAttributeAccessIssue]
    return client


@contextmanager
def _not_retried_by_library() -> Iterator[None]:
    """Raise errors of the connection as OSError, which the library raises at once."""
    try:
        yield
    except httpx2.ConnectTimeout as error:
        seconds = _TIMEOUTS["connect"]
        raise ConnectionRefusedError(f"no answer within {seconds:.0f} s") from error
    except httpx2.TransportError as error:
        if is_absent(error):
            raise ConnectionRefusedError(str(error)) from error
        raise ConnectionError(str(error) or type(error).__name__) from error


def refuse_older(version: str) -> None:
    """Raise InputError for a version of huggingface_hub whose client is another library's."""
    if int(version.partition(".")[0]) < 2:
        raise InputError(
            f"runs on the Hugging Face Hub need huggingface_hub 2, and {version} is installed: "
            "pip install 'ontogeny[hub]'"
        )


refuse_older(__version__)
set_client_factory(_client)
