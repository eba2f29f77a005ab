"""Our clock against those of the servers in play."""

import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

from flows.doctor.finding import Finding
from pipeline.config import Analysis

_SKEW_SECONDS = 30.0  # S3 refuses whoever is a quarter of an hour off; logs in two times confuse


def of_servers(analysis: Analysis | None) -> Iterator[Finding]:
    """One finding for each server that says what time it is."""
    for server in sorted(filter(None, _servers(analysis))):
        if (ahead := _seconds_ahead(server)) is not None:
            good = abs(ahead) <= _SKEW_SECONDS
            said = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} {server}"
            yield Finding("clock", good, said if good else f"{said}: set it, as with chrony")


def _servers(analysis: Analysis | None) -> set[str]:
    servers = {os.environ.get("PREFECT_API_URL", "").removesuffix("/api")}
    places = (analysis.checkpoints, analysis.store) if analysis else ()
    if any(place.startswith("s3://") for place in places):
        servers.add(os.environ.get("AWS_ENDPOINT_URL") or "https://s3.amazonaws.com")
    if any(place.startswith("hf://") for place in places):
        servers.add(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    return servers


def _seconds_ahead(url: str) -> float | None:
    """None where the server says no time, or nothing."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=5) as said:
            date = said.headers["Date"]
    except urllib.error.HTTPError as error:
        date = error.headers["Date"]
    except OSError:
        return None
    return time.time() - parsedate_to_datetime(date).timestamp() if date else None
