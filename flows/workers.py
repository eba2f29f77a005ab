"""The workers: Ray actors, each with a model that stays in memory.

A killed actor is replaced by another one, which builds its model first and gets no work before it
is ready. The calls in progress on the killed actor fail; `is_transient` says that they may be
retried. A worker that dies several times in a row before it is ready ends the run.
"""

import hashlib
import logging
import math
import os
import platform
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray._private import ray_constants
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.job_config import JobConfig

from flows import actor, cleanup
from flows.dispatch import IN_FLIGHT, NotReadyError, WorkerLostError
from flows.environment import variable
from flows.preflight import too_few_gpus
from flows.worker_logs import capture_records, replay
from pipeline.analysis.plan import Job
from pipeline.analysis.transient import TRANSIENT
from pipeline.analysis.worker import Worker
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
_MAX_DEATHS_AT_START = 3  # of one worker in a row; after that, another start will not help


def is_transient(error: BaseException | None) -> bool:
    """Return whether a retry may succeed: after a lost worker, and errors of storage or memory."""
    return isinstance(error, (RayError, *TRANSIENT))


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


class LoggedWorker:
    """A worker of the pipeline whose log records are returned with its answers.

    worker: its class, made with the argument.
    """

    def __init__(self, worker: type, argument: Any) -> None:
        logging.captureWarnings(True)
        self._worker = worker(argument)

    def call(self, method: str, *arguments: Any) -> tuple[Any, list[logging.LogRecord]]:
        """Call a method; return its answer and the records that it logged.

        The notes of an exception are the messages of these records.
        """
        with capture_records() as records:
            try:
                return getattr(self._worker, method)(*arguments), records
            except Exception as error:
                for record in records:
                    error.add_note(record.getMessage())
                raise


class ActorWorker:
    """A `dispatch.PoolWorker` that is a Ray actor; an actor that died is replaced by another.

    workers: the resources of each. worker, argument: see `LoggedWorker`. in_flight: calls that it
    carries out at the same time.
    """

    def __init__(
        self, workers: Workers, worker: type, argument: Any, in_flight: int = IN_FLIGHT
    ) -> None:
        self._make = (
            ray.remote(actor.WorkerActor)
            .options(
                num_cpus=workers.cpus,
                num_gpus=workers.gpus,
                max_concurrency=in_flight,
                # Replaced by `_start`: Ray would restart an actor that cannot start for ever,
                # without a message.
                max_restarts=0,
                max_task_retries=0,  # retries are Prefect's, which records them
                scheduling_strategy="SPREAD",
            )
            .remote
        )
        self._actor: Any = None
        self._payload = cloudpickle.dumps((worker, argument))  # pyright: ignore[reportPrivateImportUsage]
        self._deaths = 0  # in a row, without being ready in between
        # Two threads wait for answers of one actor: its death must start one successor, not two.
        self._replacing = threading.Lock()
        self._start()

    def is_usable(self) -> bool:
        """Return whether the actor is ready.

        Raises the exception of its construction, and InputError if it died too often before.
        """
        if self._starting is None or not ray.wait([self._starting], timeout=0)[0]:
            return self._starting is None
        try:
            ray.get(self._starting)
        except RayTaskError as error:
            raise error.cause from error
        except RayActorError as error:
            self._deaths += 1
            if self._deaths == _MAX_DEATHS_AT_START:
                raise InputError(
                    f"a worker died {self._deaths} times before it could begin "
                    f"({' '.join(str(error).split())}): see that its machine has enough memory, "
                    "and what its log in Ray's folder says"
                ) from error
            self._start()
            return False
        self._starting, self._deaths = None, 0
        return True

    def send(self, method: str, *arguments: Any) -> tuple[Any, ray.ObjectRef]:
        """Start a call; return the actor and the reference to its answer."""
        called = self._actor
        return called, called.call.remote(method, *arguments)

    def receive(self, pending: tuple[Any, ray.ObjectRef], seconds: float | None) -> Any:
        """Return the answer to a call, and replay its log here; see `dispatch.PoolWorker`."""
        called, reference = pending
        try:
            answer, records = ray.get(reference, timeout=seconds)
        except GetTimeoutError:
            raise NotReadyError from None
        except RayTaskError as error:
            raise error.cause from error
        except RayActorError as error:
            with self._replacing:
                if called is self._actor:  # else the other thread has replaced it already
                    self._start()
            raise WorkerLostError from error
        replay(records)
        return answer

    def replace(self) -> None:
        """Kill the actor, and start another."""
        with self._replacing:
            self._start()

    def stop(self) -> None:
        """Kill the actor."""
        ray.kill(self._actor)

    def _start(self) -> None:
        """Start an actor, and kill the one before."""
        # An actor that Ray reports as lost may only be unreachable for a while, and still write.
        if self._actor is not None:
            ray.kill(self._actor)
        start = str(Path(actor.__file__).parents[1] / "ontogeny.py")
        self._actor = self._make(start, code_digest(), self._payload)
        self._starting: ray.ObjectRef | None = self._actor.ready.remote()


# By default a class is pickled as the name of its module, which the actor would have to import
# from a path on which the user's folder comes first; see `flows.actor`.
cloudpickle.register_pickle_by_value(actor)


@cache
def code_digest() -> str:
    """Return the sha256 of the source of `pipeline` and `flows`, as imported in this process."""
    state, root = hashlib.sha256(), Path(__file__).parents[1]
    for file in sorted(
        path for name in ("pipeline", "flows") for path in root.glob(f"{name}/**/*.py")
    ):
        state.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes() + b"\0")
    return state.hexdigest()


def check_code(digest: str) -> None:
    """Raise InputError if the code of this process has another digest."""
    if code_digest() != digest:
        raise InputError(
            f"a worker on {platform.node()} has imported {Path(__file__).parents[1]}, which "
            "differs from this run's code: install the same version of ontogeny on every machine"
        )


def start_workers(job: Job, worker: type = Worker) -> list[ActorWorker]:
    """Start the workers of a job; return them when the first one is ready."""
    return start_actors(job.analysis.workers, worker, job)


def start_actors(
    workers: Workers, worker: type, argument: Any, in_flight: int = IN_FLIGHT
) -> list[ActorWorker]:
    """Start workers of a class; return them when the first one is ready. See `ActorWorker`."""
    connect_to_ray(workers)
    started = [ActorWorker(workers, worker, argument, in_flight) for _ in range(workers.count)]
    # A model that cannot be built then raises one error here, not one for every checkpoint.
    while not any(one.is_usable() for one in started):
        time.sleep(0.02)
    return started


def connect_to_ray(workers: Workers) -> None:
    """Connect to the cluster at RAY_ADDRESS, or start Ray on this machine.

    Raises InputError if this machine has fewer GPUs than the workers ask for.
    """
    address = os.environ.get("RAY_ADDRESS")
    if address:
        if not ray.is_initialized():
            remedy = "check that its head runs, RAY_ADDRESS and RAY_AUTH_TOKEN_PATH"
            with _sigterm_handler_kept(), _refused(f"the Ray cluster at {address}", remedy):
                ray.init(
                    address=address,
                    job_config=_JobConfig(),
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
        return
    # An earlier analysis of this process may have started Ray for fewer workers.
    if ray.is_initialized() and not _has_room(workers):
        ray.shutdown()
    if not ray.is_initialized():
        _start_local_ray(workers)
    if not _has_room(workers):
        found = ray.cluster_resources().get("GPU", 0)
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
        ray.init(
            job_config=_JobConfig(),
            address="local",  # never join a cluster that somebody else runs on this machine
            # Ray counts CPUs but does not bind them: more workers than cores are allowed.
            num_cpus=max(os.cpu_count() or 1, math.ceil(workers.count * workers.cpus)),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=_OBJECT_STORE_BYTES,
            _temp_dir=str(folder),
            _system_config=_SYSTEM_CONFIG,
        )


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
    with variable(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, "0"):  # read by Ray's processes
        ray_constants.ENABLE_RAY_CLUSTER = False  # the same in this process, which has read it
        try:
            yield
        finally:
            ray_constants.ENABLE_RAY_CLUSTER = True


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


def _has_room(workers: Workers) -> bool:
    resources = ray.cluster_resources()
    needed = {"CPU": workers.count * workers.cpus, "GPU": workers.count * workers.gpus}
    return all(resources.get(name, 0) >= amount for name, amount in needed.items())
