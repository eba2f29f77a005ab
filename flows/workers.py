"""The workers: Ray actors that each hold a resident model.

A killed actor is restarted by Ray and rebuilds its model in its constructor; what it had in hand
is reported as failed (`may_pass` tells that trying again helps) and it gets no work until it
answers again.
"""

import logging
import math
import os
import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from flows.dispatch import LostError, Pool, StillWorkingError
from flows.worker_logs import overheard, say_again
from pipeline.analysis.plan import Job
from pipeline.analysis.worker import TRANSIENT, Worker
from pipeline.config import Workers
from pipeline.errors import InputError

# Nothing large passes through Ray: weights are read, and rows written, by the workers themselves.
_OBJECT_STORE_BYTES = 200 * 2**20


def may_pass(error: BaseException | None) -> bool:
    """Whether trying again may help: a lost worker, reading or writing, memory."""
    return isinstance(error, (RayError, *TRANSIENT))


class Speaking:
    """What an actor runs: a worker that hands its log over with its answers."""

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
    """A Ray actor as `dispatch.Worker`. Ray restarts a killed one, which builds its model again."""

    def __init__(self, job: Job, worker: type = Worker) -> None:
        workers = job.analysis.workers
        self._actor: Any = (
            ray.remote(Speaking)
            .options(
                num_cpus=workers.cpus,
                num_gpus=workers.gpus,
                max_concurrency=Pool.IN_FLIGHT,
                max_restarts=-1,
                max_task_retries=0,
                scheduling_strategy="SPREAD",
            )
            .remote(worker, job)
        )
        self.returning: ray.ObjectRef | None = self._sign_of_life()

    def is_usable(self) -> bool:
        """Raises the error that the actor's constructor ended with."""
        if self.returning is not None and ray.wait([self.returning], timeout=0)[0]:
            ray.get(self.returning)
            self.returning = None
        return self.returning is None

    def send(self, method: str, *arguments: Any) -> ray.ObjectRef:
        """See `dispatch.Worker`."""
        return self._actor.call.remote(method, *arguments)

    def receive(self, pending: ray.ObjectRef, seconds: float | None) -> Any:
        """See `dispatch.Worker`. What was logged there is logged here."""
        try:
            answer, said = ray.get(pending, timeout=seconds)
        except GetTimeoutError:
            raise StillWorkingError from None
        except RayTaskError as error:
            raise error.cause from error
        except RayActorError as error:
            self.returning = self._sign_of_life()
            raise LostError from error
        say_again(said)
        return answer

    def replace(self) -> None:
        """See `dispatch.Worker`."""
        ray.kill(self._actor, no_restart=False)
        self.returning = self._sign_of_life()

    def dismiss(self) -> None:
        """See `dispatch.Worker`."""
        ray.kill(self._actor)

    def _sign_of_life(self) -> ray.ObjectRef:
        """Answered when the actor is constructed; unlike work, it waits for one that restarts."""
        return self._actor.__ray_ready__.options(max_task_retries=-1).remote()


def hire(job: Job, worker: type = Worker) -> list[ActorWorker]:
    """The workers of a job, of which the first has built its model."""
    connect(job.analysis.workers)
    hired = [ActorWorker(job, worker) for _ in range(job.analysis.workers.count)]
    # A model that cannot be built is one error here, not one for every checkpoint.
    first, _ = ray.wait([one.returning for one in hired])
    ray.get(first)
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
