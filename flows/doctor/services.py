"""Checks of the servers that a run uses: Prefect, Ray, the Hub."""

import os
import shutil
import subprocess
from importlib.metadata import version

from flows.doctor.check import SECONDS, Check, call_within, reason
from flows.doctor.cluster import Resources, query_resources
from flows.preflight import HEAD_REMEDY, connect_once
from pipeline.config import Workers


def check_prefect() -> Check:
    """Check that the server at PREFECT_API_URL answers and is not older than our Prefect."""
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return Check(
            "Prefect", True, "no server is configured: each run starts one that ends with it"
        )
    try:
        server = call_within(SECONDS, lambda: _server_version(url))
    except Exception as error:
        return Check(
            "Prefect",
            False,
            f"{url}: {reason(error)}: start it (`ontogeny ui`), or correct PREFECT_API_URL",
        )
    ours = version("prefect")
    # Prefect supports servers that are newer than their clients, and not the reverse.
    if _minor(server) < _minor(ours):
        message = f"{url} runs {server}, older than {ours} here: upgrade the server first"
        return Check("Prefect", False, message)
    return Check("Prefect", True, f"{url} answers, version {server}")


def _server_version(url: str) -> str:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY

    # Not `get_client`: PREFECT_API_URL may have been set after Prefect read its settings.
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


def check_ray(workers: Workers | None) -> Check:
    """Check that the cluster at RAY_ADDRESS answers and has room for these workers."""
    address = os.environ.get("RAY_ADDRESS")
    try:
        if address:
            connect_once(address)
            found, where = query_resources(address, SECONDS), f"{address} answers"
        else:
            found = Resources(1, os.cpu_count() or 1, _gpus_here())
            where = "no RAY_ADDRESS: each run starts Ray on this machine"
    except (OSError, RuntimeError) as error:
        remedy = _TOKEN_REMEDY if "token" in str(error) else HEAD_REMEDY
        return Check("Ray", False, f"{address}: {reason(error)}: {remedy}")
    return _room(workers, found, where, local=not address)


def _room(workers: Workers | None, found: Resources, where: str, local: bool) -> Check:
    nodes = "1 node" if found.nodes == 1 else f"{found.nodes} nodes"
    message = f"{where}, with {nodes}, {found.cpus:g} CPUs and {found.gpus:g} GPUs"
    if not found.nodes:  # a head that outlives its nodes answers for some time
        return Check("Ray", False, f"{message}: no node is alive: {HEAD_REMEDY}")
    if missing := workers and _missing(workers, found, local):
        return Check("Ray", False, f"{message}; {missing}")
    return Check("Ray", True, message)


def _missing(workers: Workers, found: Resources, local: bool) -> str:
    """Return which resources are missing and what to do, or an empty text."""
    gpus, cpus = workers.count * workers.gpus, workers.count * workers.cpus
    # A local Ray is started with as many CPUs as the workers ask for, see `flows.workers`.
    if found.gpus >= gpus and (local or found.cpus >= cpus):
        return ""
    wanted = f"{workers.count} workers ask for {cpus:g} CPUs and {gpus:g} GPUs"
    return f"{wanted}: add nodes, or lower workers in the config"


_TOKEN_REMEDY = "copy ~/.ray/auth_token from its head, or set RAY_AUTH_TOKEN_PATH"


def _gpus_here() -> int:
    # Not `torch.cuda`, whose import and initialisation take seconds.
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=SECONDS)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def check_hub_token(needed: bool) -> Check:
    """Check that the Hub accepts our token. needed: the checkpoints are on the Hub."""
    from huggingface_hub import get_token, whoami
    from huggingface_hub.errors import HfHubHTTPError

    token = get_token()
    if token is None:
        return Check("hub token", True, "none: public repositories only (`hf auth login`)")
    try:
        name = call_within(SECONDS, lambda: whoami(token))["name"]
    except HfHubHTTPError as error:
        status = error.response.status_code
        remedy = "create another at https://huggingface.co/settings/tokens and `hf auth login`"
        # Other errors say nothing about the token: they fail only an analysis that reads the Hub.
        if status in (401, 403):
            return Check("hub token", False, f"the Hub refuses it ({status}): {remedy}")
        return Check("hub token", not needed, f"unknown, the Hub answers {status}: try later")
    except Exception as error:
        return Check("hub token", not needed, f"unknown, the Hub does not answer: {reason(error)}")
    return Check("hub token", True, f"of {name}")
