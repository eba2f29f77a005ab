"""The servers that a run talks to: Prefect, Ray, the Hub."""

import os
import shutil
import socket
import subprocess
from importlib.metadata import version

from flows.doctor.cluster import Resources, ask
from flows.doctor.finding import SECONDS, Finding, brief, within
from pipeline.config import Workers


def of_prefect() -> Finding:
    """Whether the server that PREFECT_API_URL names answers, and is as new as we are."""
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return Finding(
            "Prefect", True, "no server is named: each run brings its own, which ends with it"
        )
    try:
        server = within(SECONDS, lambda: _server_version(url))
    except Exception as error:
        return Finding(
            "Prefect",
            False,
            f"{url}: {brief(error)}: start it (`ontogeny ui`), or correct PREFECT_API_URL",
        )
    ours = version("prefect")
    if _minor(server) < _minor(ours):
        said = f"{url} runs {server}, older than {ours} here: upgrade the server first"
        return Finding("Prefect", False, said)
    return Finding("Prefect", True, f"{url} answers, version {server}")


def _server_version(url: str) -> str:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY

    key, string = PREFECT_API_KEY.value(), PREFECT_API_AUTH_STRING.value()
    with SyncPrefectClient(
        url,
        api_key=key.get_secret_value() if key else None,
        auth_string=string.get_secret_value() if string else None,
    ) as client:
        if failure := client.api_healthcheck():
            raise failure
        return client.api_version()


def _minor(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def of_ray(workers: Workers | None) -> Finding:
    """Whether the cluster at RAY_ADDRESS answers, and has room for these workers."""
    address = os.environ.get("RAY_ADDRESS")
    try:
        if address:
            _knock(address)
            has, where = ask(address, SECONDS), f"{address} answers"
        else:
            has = Resources(1, os.cpu_count() or 1, _gpus_here())
            where = "no RAY_ADDRESS: each run starts its own on this machine"
    except (OSError, RuntimeError) as error:
        remedy = _TOKEN if "token" in str(error) else _HEAD
        return Finding("Ray", False, f"{address}: {brief(error)}: {remedy}")
    said = f"{where}, with {has.nodes} nodes, {has.cpus:g} CPUs and {has.gpus:g} GPUs"
    if lacking := workers and _lacking(workers, has, ours=not address):
        return Finding("Ray", False, f"{said}; {lacking}")
    return Finding("Ray", True, said)


def _lacking(workers: Workers, has: Resources, ours: bool) -> str:
    """What there is no room for, and what to do. ours: CPUs are bookkeeping, see `connect`."""
    gpus, cpus = workers.count * workers.gpus, workers.count * workers.cpus
    if has.gpus >= gpus and (ours or has.cpus >= cpus):
        return ""
    wanted = f"{workers.count} workers ask for {cpus:g} CPUs and {gpus:g} GPUs"
    return f"{wanted}: add nodes, or lower workers in the config"


_HEAD = "see that its head runs and RAY_ADDRESS is right (infra/machines/start_head.sh)"
_TOKEN = "copy ~/.ray/auth_token from its head, or set RAY_AUTH_TOKEN_PATH"


def _knock(address: str) -> None:
    """Raises OSError at once where nobody listens; Ray itself would try for long."""
    host, _, port = address.rpartition("://")[2].partition("/")[0].rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()


def _gpus_here() -> int:
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=SECONDS)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def of_hub_token(needed: bool) -> Finding:
    """Whether the Hub takes our token. needed: the checkpoints are there."""
    from huggingface_hub import get_token, whoami
    from huggingface_hub.errors import HfHubHTTPError

    token = get_token()
    if token is None:
        return Finding("hub token", True, "none: public repositories only (`hf auth login`)")
    try:
        name = within(SECONDS, lambda: whoami(token))["name"]
    except HfHubHTTPError as error:
        status = error.response.status_code
        remedy = "make another at https://huggingface.co/settings/tokens and `hf auth login`"
        if status in (401, 403):
            return Finding("hub token", False, f"the Hub refuses it ({status}): {remedy}")
        return Finding("hub token", not needed, f"not asked, the Hub answers {status}: try later")
    except Exception as error:
        return Finding("hub token", not needed, f"not asked, the Hub is away: {brief(error)}")
    return Finding("hub token", True, f"of {name}")
