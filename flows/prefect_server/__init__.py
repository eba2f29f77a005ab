"""The Prefect servers that we start: they listen on loopback and ask for the user's secret."""

LOCAL = "127.0.0.1"


def api_url(port: int) -> str:
    """Return the URL of the API of a server of ours."""
    return f"http://{LOCAL}:{port}/api"
