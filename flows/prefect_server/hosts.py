"""The names under which a page of this machine may address our servers."""

from urllib.parse import urlsplit

_OWN = ("127.0.0.1", "localhost", "::1")


def is_own_host(headers: list[str]) -> bool:
    """Return whether the Host headers of a request are one name of this machine, with any port.

    A page whose owner lets its name lead to this machine (DNS rebinding) sends that name. The port
    is that of a tunnel where one leads here.
    """
    return len(headers) == 1 and _host_name(headers[0]) in _OWN


def _host_name(host: str) -> str | None:
    """Return the name in a Host header, without its port; None if it is malformed."""
    try:
        parts = urlsplit(f"//{host}")
        return parts.hostname if parts.netloc == host and "@" not in host else None
    except ValueError:
        return None
