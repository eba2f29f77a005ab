"""Compare the clock of this machine with those of the servers that a run uses."""

import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

from flows.doctor.check import Check
from pipeline.config import Analysis

# S3 refuses requests that are 15 minutes off. Much smaller differences already make it hard to
# compare logs of two machines.
_MAX_SKEW_SECONDS = 30.0


def check_clocks(analysis: Analysis | None) -> Iterator[Check]:
    """Yield a check for each server whose answers contain its time."""
    for server in sorted(filter(None, _servers(analysis))):
        if (ahead := _seconds_ahead(server)) is not None:
            ok = abs(ahead) <= _MAX_SKEW_SECONDS
            message = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} {server}"
            yield Check(
                "clock", ok, message if ok else f"{message}: set the clock, for instance by chrony"
            )


def _servers(analysis: Analysis | None) -> set[str]:
    servers = {os.environ.get("PREFECT_API_URL", "").removesuffix("/api")}
    places = (analysis.checkpoints, analysis.store) if analysis else ()
    if any(place.startswith("s3://") for place in places):
        servers.add(os.environ.get("AWS_ENDPOINT_URL") or "https://s3.amazonaws.com")
    if any(place.startswith("hf://") for place in places):
        servers.add(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    return servers


def _seconds_ahead(url: str) -> float | None:
    """Return how far our clock is ahead of a server's; None if it does not answer with its time."""
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            date = response.headers["Date"]
    except urllib.error.HTTPError as error:  # a refused request has the header too
        date = error.headers["Date"]
    except OSError:  # reported by the check of that server
        return None
    return time.time() - parsedate_to_datetime(date).timestamp() if date else None
