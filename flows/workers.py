"""The workers: Ray actors that each hold a resident model.

A killed actor is replaced by another, which builds the model anew; what it had in hand is reported
as failed (`may_pass` tells that trying again helps) and it gets no work until it answers again. A
worker that dies again and again before it has answered once ends the run.
"""

import hashlib
import logging
import math
import os
import platform
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from flows import actor
from flows.dispatch import LostError, Pool, StillWorkingError
from flows.worker_logs import overheard, say_again
from pipeline.analysis.plan import Job
from pipeline.analysis.worker import Worker
from pipeline.config import Workers
from pipeline.errors import InputError
from pipeline.retrying import TRANSIENT

# Nothing large passes through Ray: weights are read, and rows written, by the workers themselves.
_OBJECT_STORE_BYTES = 200 * 2**20
_DEATHS_BEFORE_WORK = 3  # of one worker in a row: then it is not bad luck


def may_pass(error: BaseException | None) -> bool:
    """Whether trying again may help: a lost worker, reading or writing, memory."""
    return isinstance(error, (RayError, *TRANSIENT))


class LoggedWorker:
    """A worker that hands its log over with its answers."""

    def __init__(self, worker: type, job: Job) -> None:
        logging.captureWarnings(True)
        self._worker = worker(job)

    def call(self, method: str, *arguments: Any) -> tuple[Any, list[logging.LogRecord]]:
        """An answer and what was logged meanwhile; an error has its log as notes."""
        with overheard() as said:
            try:
                return getattr(self._worker, method)(*arguments), said
            except Exception as error:
                for record in said:
                    error.add_note(record.getMessage())
                raise


class ActorWorker:
    """A Ray actor as `dispatch.Worker`; one that died is replaced by the next."""

    def __init__(self, job: Job, worker: type = Worker) -> None:
        workers = job.analysis.workers
        self._make = (
            ray.remote(actor.WorkerActor)
            .options(
                num_cpus=workers.cpus,
                num_gpus=workers.gpus,
                max_concurrency=Pool.IN_FLIGHT,
                max_restarts=0,  # Ray would restart one that cannot start for ever, and say nothing
                max_task_retries=0,
                scheduling_strategy="SPREAD",
            )
            .remote
        )
        self._actor: Any = None
        self._payload = cloudpickle.dumps((worker, job))  # pyright: ignore[reportPrivateImportUsage]
        self._deaths = 0  # in a row, without an answer in between
        # Two threads wait for answers of one actor: its death starts one successor, not two.
        self._replacing = threading.Lock()
        self._start()

    def is_usable(self) -> bool:
        """Raises what its construction raised; InputError where it died too often meanwhile."""
        if self._starting is None or not ray.wait([self._starting], timeout=0)[0]:
            return self._starting is None
        try:
            ray.get(self._starting)
        except RayTaskError as error:
            raise error.cause from error
        except RayActorError as error:
            self._deaths += 1
            if self._deaths == _DEATHS_BEFORE_WORK:
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
        """Begin some work; returns the actor that was given it, and the answer to come."""
        sent_to = self._actor
        return sent_to, sent_to.call.remote(method, *arguments)

    def receive(self, pending: tuple[Any, ray.ObjectRef], seconds: float | None) -> Any:
        """See `dispatch.Worker`. What was logged there is logged here."""
        sent_to, answer_to_come = pending
        try:
            answer, said = ray.get(answer_to_come, timeout=seconds)
        except GetTimeoutError:
            raise StillWorkingError from None
        except RayTaskError as error:
            raise error.cause from error
        except RayActorError as error:
            with self._replacing:
                if sent_to is self._actor:  # else it has a successor already
                    self._start()
            raise LostError from error
        say_again(said)
        return answer

    def replace(self) -> None:
        """See `dispatch.Worker`."""
        with self._replacing:
            self._start()

    def dismiss(self) -> None:
        """See `dispatch.Worker`."""
        ray.kill(self._actor)

    def _start(self) -> None:
        """Start an actor; end the one before, which may be out of reach only for now."""
        if self._actor is not None:
            ray.kill(self._actor)
        start = str(Path(actor.__file__).parents[1] / "ontogeny.py")
        self._actor = self._make(start, code_digest(), self._payload)
        self._starting: ray.ObjectRef | None = self._actor.started.remote()


# What an actor needs before it can import anything of ours.
cloudpickle.register_pickle_by_value(actor)


@cache
def code_digest() -> str:
    """sha256 of the source of `pipeline` and `flows`, as imported in this process."""
    state, root = hashlib.sha256(), Path(__file__).parents[1]
    for file in sorted(
        path for name in ("pipeline", "flows") for path in root.glob(f"{name}/**/*.py")
    ):
        state.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes() + b"\0")
    return state.hexdigest()


def check_code(digest: str) -> None:
    """Raise InputError where this process has other code than that of the digest."""
    if code_digest() != digest:
        raise InputError(
            f"a worker on {platform.node()} has imported {Path(__file__).parents[1]}, where other "
            "code lies than in this process: install the same version of ontogeny on all machines"
        )


def hire(job: Job, worker: type = Worker) -> list[ActorWorker]:
    """The workers of a job, of which the first has built its model."""
    connect(job.analysis.workers)
    hired = [ActorWorker(job, worker) for _ in range(job.analysis.workers.count)]
    # A model that cannot be built is one error here, not one for every checkpoint.
    while not any(one.is_usable() for one in hired):
        time.sleep(0.02)
    return hired


def connect(workers: Workers) -> None:
    """Be connected to a Ray that has room: the one at RAY_ADDRESS, else one on this machine.

    Raises InputError where this machine lacks the GPUs that were asked for.
    """
    address = os.environ.get("RAY_ADDRESS")
    if address:
        if not ray.is_initialized():
            with _own_sigterm():
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        return
    if ray.is_initialized() and not _has_room(workers):
        ray.shutdown()
    if not ray.is_initialized():
        _start_here(workers)
    if not _has_room(workers):
        found = ray.cluster_resources().get("GPU", 0)
        raise InputError(
            f"workers: {workers.count} workers of {workers.gpus} GPUs each were asked for, this "
            f"machine has {found:g}: lower count or gpus, or name a cluster in RAY_ADDRESS"
        )


def _start_here(workers: Workers) -> None:
    """A Ray of our own on this machine, which asks for a token that lives as long as this process.

    CPUs are bookkeeping: more workers than cores is the user's choice.
    """
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with _own_sigterm():
        ray.init(
            address="local",  # not the cluster that somebody else has started on this machine
            num_cpus=max(os.cpu_count() or 1, math.ceil(workers.count * workers.cpus)),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=_OBJECT_STORE_BYTES,
        )


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Ray takes SIGTERM for itself; Prefect's way of ending a cancelled run is to stand."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _has_room(workers: Workers) -> bool:
    resources = ray.cluster_resources()
    needed = {"CPU": workers.count * workers.cpus, "GPU": workers.count * workers.gpus}
    return all(resources.get(name, 0) >= amount for name, amount in needed.items())
