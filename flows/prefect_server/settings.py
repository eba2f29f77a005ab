"""The settings of the Prefect servers that we start."""

import os

from flows.prefect_server import LOCAL, api_url
from flows.prefect_server.records import prefect_home
from flows.prefect_server.secret import server_secret


def server_settings(port: int) -> dict[str, str]:
    """Return the environment of a server at a port. Values that the user has set take precedence.

    Without PREFECT_API_URL: a server is not a client of another.
    """
    ours = {
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(own_origins(port)),
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        # Without this variable the pages of the UI send their requests to the default port.
        "PREFECT_SERVER_UI_API_URL": api_url(port),
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # By default the pages are copied into the installation, which others may share.
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(prefect_home() / "ontogeny-ui-pages"),
        # Leases in memory are lost with the server, and their concurrency slots stay taken.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
            "prefect.server.concurrency.lease_storage.filesystem"
        ),
    }
    others = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    secret = server_secret()
    return {
        **ours,
        **others,
        "PREFECT_SERVER_API_AUTH_STRING": secret,
        "PREFECT_API_AUTH_STRING": secret,
    }


def client_settings(url: str) -> dict[str, str]:
    """Return the environment of clients of a server of ours: only such a server gets the secret."""
    return {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": server_secret()}


def own_origins(port: int) -> list[str]:
    """Return the origins of our own pages."""
    return [f"http://{LOCAL}:{port}", f"http://localhost:{port}"]
