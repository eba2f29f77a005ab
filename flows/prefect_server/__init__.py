"""The Prefect servers that we start: they listen on loopback and ask for the user's secret."""

LOCAL = "127.0.0.1"
# `ontogeny ui` sends requests for these paths to its server of reports, at the next port. Artifacts
# link to them: a run with a server of its own does not know at which port its record will be shown.
REPORTS = "/ontogeny-reports/"


def api_url(port: int) -> str:
    """Return the URL of the API of a server of ours."""
    return f"http://{LOCAL}:{port}/api"
