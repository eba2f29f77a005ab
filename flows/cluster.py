"""Connect to Ray: to the cluster at RAY_ADDRESS, or to one that is started on this machine.

Nothing here imports torch or Prefect: `flows.early_start` connects while these are imported.
"""

import logging
import math
import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import ray
from ray._private import ray_constants, worker
from ray.job_config import JobConfig

from flows import cleanup
from flows.environment import variable
from pipeline.config import Workers
from pipeline.errors import InputError, first_line

# Ray reserves 30% of the memory by default, which the models need. Nothing large passes through
# Ray: workers read weights and write rows themselves.
_OBJECT_STORE_BYTES = 200 * 2**20
_SYSTEM_CONFIG = {
    # The metrics would be open to every user of the machine, at a port without a token.
    "enable_metrics_collection": False,
    # Ray's own limit is a disk that is 95% full, on which there may still be gigabytes.
    "local_fs_capacity_threshold": 0.999,
}
_connecting = threading.Lock()
_token_file: Path | None = None  # where the dashboard's user finds its token


class _JobConfig(JobConfig):
    """A job whose workers search for modules where this process does.

    Otherwise Ray adds the working folder, where a `numpy.py` of the user would be imported.
    """

    def __init__(self) -> None:
        searched = {str(Path(folder).absolute()) for folder in sys.path}
        folders = (Path(sys.argv[0]).resolve().parent, Path.cwd())
        super().__init__(
            _py_driver_sys_path=[str(folder) for folder in folders if str(folder) in searched]
        )

    def _runtime_env_has_working_dir(self) -> bool:
        return True  # Ray adds no folder of its own then


def is_on_cluster() -> bool:
    """Return whether runs of this process compute on a cluster; `ray job submit` names it too."""
    return bool(os.environ.get("RAY_ADDRESS"))


def dashboard_line() -> str:
    """Return where Ray's dashboard answers, and where its token is; "" if there is none."""
    node = worker.global_worker.node
    url = node and node.webui_url
    if not url:
        return ""
    if token := os.environ.get("RAY_AUTH_TOKEN_PATH") or _token_file:
        return f"Ray's dashboard: http://{url}; it asks for the token in {token}"
    return f"Ray's dashboard: http://{url}; if it asks for a token, it is that of the cluster"


def connect_to_ray(workers: Workers) -> None:
    """Connect to the cluster at RAY_ADDRESS, or start Ray on this machine.

    Where another thread is connecting, this waits for it. Raises InputError if this machine has
    fewer GPUs than the workers ask for.
    """
    with _connecting:
        if address := os.environ.get("RAY_ADDRESS"):
            _join_cluster(address)
        else:
            _use_local_ray(workers)


def _join_cluster(address: str) -> None:
    """Connect to a cluster, whose memory, spilling and dashboard are its operator's to choose."""
    if ray.is_initialized():
        return
    remedy = "check that its head runs, RAY_ADDRESS and RAY_AUTH_TOKEN_PATH"
    with _sigterm_handler_kept(), _refused(f"the Ray cluster at {address}", remedy):
        ray.init(
            address=address,
            job_config=_JobConfig(),
            log_to_driver=False,
            logging_level=logging.ERROR,
        )


def _use_local_ray(workers: Workers) -> None:
    # An earlier analysis of this process may have started Ray for fewer workers.
    if ray.is_initialized() and not _suits(workers):
        ray.shutdown()
    if not ray.is_initialized():
        _start_local_ray(workers)
    if not _has_room(workers):
        found = ray.cluster_resources().get("GPU", 0)
        from flows.preflight import too_few_gpus  # imports torch

        raise InputError(too_few_gpus(workers, found))


def _start_local_ray(workers: Workers) -> None:
    """Start Ray on this machine, with a token of its own unless the user has set one."""
    # Without a token, every user of the machine could run code in this Ray.
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    remedy = "raise limits of memory and processes (ulimit -a), or run without it by --serial"
    with (
        cleanup.covered() as folder,
        _refused("Ray on this machine", remedy),
        _sigterm_handler_kept(),
        _on_loopback(),
    ):
        if workers.dashboard:
            _save_token(folder / "ray-token")
        ray.init(
            job_config=_JobConfig(),
            address="local",  # never join a cluster that somebody else runs on this machine
            # Ray counts CPUs but does not bind them: more workers than cores are allowed.
            num_cpus=max(os.cpu_count() or 1, math.ceil(workers.count * workers.cpus)),
            include_dashboard=workers.dashboard,
            dashboard_host="127.0.0.1",
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=_OBJECT_STORE_BYTES,
            _temp_dir=str(folder),
            _system_config=_SYSTEM_CONFIG,
        )


def _save_token(file: Path) -> None:
    """Save the token where only this user can read it, to be given to the dashboard."""
    global _token_file
    if (token := os.environ.get("RAY_AUTH_TOKEN")) and not file.exists():
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(opened, "w") as content:
            content.write(token)
    _token_file = file if file.exists() else None


@contextmanager
def _refused(what: str, remedy: str) -> Iterator[None]:
    """Raise InputError in place of what Ray raises in the block, of any type and many lines."""
    try:
        yield
    except Exception as error:
        raise InputError(f"{what} cannot be used ({first_line(error)}): {remedy}") from error


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Let a Ray that is started during the block listen on the loopback interface only.

    On macOS Ray does that by default. `_node_ip_address="127.0.0.1"` would be replaced by the
    machine's address in the network.
    """
    with loopback_variable():
        ray_constants.ENABLE_RAY_CLUSTER = False  # the same in this process, which has read it
        try:
            yield
        finally:
            ray_constants.ENABLE_RAY_CLUSTER = True


def loopback_variable() -> AbstractContextManager[None]:
    """Set the variable by which Ray's processes listen on loopback only, during the block."""
    return variable(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, "0")


@contextmanager
def _sigterm_handler_kept() -> Iterator[None]:
    """Restore the SIGTERM handler after the block, and let it handle a signal in the block.

    `ray.init` installs its own handler, but Prefect cancels a run through the handler before.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Ray installs no handler
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:  # from Ray's handler
        signal.signal(signal.SIGTERM, handler)
        signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, handler)


def _suits(workers: Workers) -> bool:
    """Return whether the Ray that runs has room for the workers, and a dashboard if they ask."""
    return _has_room(workers) and (bool(dashboard_line()) or not workers.dashboard)


def _has_room(workers: Workers) -> bool:
    resources = ray.cluster_resources()
    needed = {"CPU": workers.count * workers.cpus, "GPU": workers.count * workers.gpus}
    return all(resources.get(name, 0) >= amount for name, amount in needed.items())
