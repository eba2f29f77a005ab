"""The Prefect server that a run reports to: a persistent one, or one embedded in the run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.prefect_server import REPORTS, api_url
from flows.prefect_server.embedded import (
    await_server,
    is_embedded_server,
    start_embedded_server,
)
from flows.prefect_server.records import prefect_home
from flows.prefect_server.registry import is_own_server, persistent_port
from flows.prefect_server.settings import client_settings
from pipeline.errors import InputError


def use_persistent_server() -> None:
    """Let runs of this process report to the user's `ontogeny ui`, if that runs.

    A server that PREFECT_API_URL names takes precedence; only a server of the user's own gets the
    secret. Call this before Prefect is imported, because Prefect then reads its settings.
    """
    if url := os.environ.get("PREFECT_API_URL"):
        if not os.environ.get("PREFECT_API_AUTH_STRING") and is_own_server(url):
            os.environ.update(client_settings(url))
    elif port := persistent_port():
        os.environ.update(client_settings(api_url(port)))


def may_name_server() -> bool:
    """Return whether Prefect's settings may name a server: the environment, a profile, or a file.

    Their files are looked at without Prefect, which takes seconds to import.
    """
    return bool(
        os.environ.get("PREFECT_API_URL")
        or "PREFECT_API_URL" in _active_profile()
        or "PREFECT_" in _text_of(Path(".env"))
        or "tool.prefect" in _text_of(Path("pyproject.toml"))
        or Path("prefect.toml").exists()
    )


def _active_profile() -> dict[str, Any]:
    """Return the settings of the active profile, as `prefect config set` stores them."""
    import tomllib  # not for the short commands

    file = os.environ.get("PREFECT_PROFILES_PATH") or prefect_home() / "profiles.toml"
    try:
        content = tomllib.loads(_text_of(Path(file)))
        active = os.environ.get("PREFECT_PROFILE") or content.get("active")
        return content.get("profiles", {}).get(active, {})
    except (ValueError, AttributeError):  # of another form, which Prefect itself reports
        return {}


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def report_link(page: Path) -> str:
    """Return where the UI that shows this run finds a report: a path of that server, if it is ours.

    A run with a server of its own is shown by `ontogeny ui` later, at a port that is not known yet.
    On another server it is the file's URL, which browsers open only from the address bar.
    """
    from prefect.settings import PREFECT_API_URL

    from flows import pages

    url = PREFECT_API_URL.value() or ""
    if is_own_server(url) or is_embedded_server(url):
        return f"{REPORTS}{pages.add_link(page)}"
    return page.resolve().as_uri()


def require_server() -> None:
    """Start the embedded server, or raise InputError if a configured one cannot be used."""
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    if not url:
        start_embedded_server()
        return
    await_server()
    if not is_server_reachable():
        raise InputError(
            f"the Prefect server at {url} does not answer: start it, name another in "
            "PREFECT_API_URL, or run without one by --serial"
        )
    if _is_secret_refused():
        raise InputError(
            f"the Prefect server at {url} asks for another secret than yours: set "
            "PREFECT_API_AUTH_STRING (or PREFECT_API_KEY) to its own, or run without one by "
            "--serial"
        )


def require_persistent_server(who: str) -> str:
    """Return the URL of the configured server, or raise InputError if there is none to be used.

    who: the first words of the message, such as "a schedule needs".
    """
    from prefect.settings import PREFECT_API_URL

    if not (url := PREFECT_API_URL.value()):
        raise InputError(
            f"{who} a persistent Prefect server: start one with `ontogeny ui`, or name yours in "
            "PREFECT_API_URL"
        )
    require_server()
    return url


def run_link() -> str:
    """Return where the present flow run can be seen: its page, or how to open it afterwards."""
    from prefect.runtime import flow_run
    from prefect.settings import PREFECT_API_URL

    if is_embedded_server(PREFECT_API_URL.value() or ""):
        return "recorded by Prefect; to see it, also after its end, open the link of `ontogeny ui`"
    return f"the run in Prefect: {flow_run.ui_url}"


@contextmanager
def without_retries() -> Iterator[None]:
    """Do not retry failed requests during the block: Prefect's retries take minutes."""
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
        yield


def is_server_reachable() -> bool:
    """Return whether the configured server can be reached now, even if it answers with an error."""
    import httpx
    from prefect.client.orchestration import get_client

    with without_retries(), get_client(sync_client=True) as client:
        return not isinstance(client.api_healthcheck(), httpx.TransportError)


def _is_secret_refused() -> bool:
    """Return whether the server refuses requests with our secret: its health is told to all."""
    import httpx
    from prefect.client.orchestration import get_client

    try:
        with without_retries(), get_client(sync_client=True) as client:
            client.request("GET", "/admin/version")
    except httpx.HTTPStatusError as error:
        return error.response.status_code == httpx.codes.UNAUTHORIZED
    except httpx.HTTPError:
        pass  # the run itself says what is wrong
    return False
