"""The workers: Ray actors, each with a model that stays in memory.

A killed actor is replaced by another one, which builds its model first and gets no work before it
is ready. The calls in progress on the killed actor fail; `is_transient` says that they may be
retried. A worker that dies several times in a row before it is ready ends the run.
"""

import threading
import time
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from flows import actor
from flows.cluster import connect_to_ray, dashboard_line, is_on_cluster
from flows.dispatch import IN_FLIGHT, NotReadyError, WorkerLostError
from flows.driver_code import code_digest
from flows.worker_logs import replay
from pipeline.analysis.job import Job
from pipeline.analysis.transient import TRANSIENT
from pipeline.analysis.worker import Worker
from pipeline.config import Workers
from pipeline.errors import InputError
from pipeline.progress import Tell

_MAX_DEATHS_AT_START = 3  # of one worker in a row; after that, another start will not help


def is_transient(error: BaseException | None) -> bool:
    """Return whether a retry may succeed: after a lost worker, and errors of storage or memory."""
    return isinstance(error, (RayError, *TRANSIENT))


class ActorWorker:
    """A `dispatch.PoolWorker` that is a Ray actor; an actor that died is replaced by another.

    workers: the resources of each. worker, argument: see `worker_logs.LoggedWorker`. in_flight:
    calls that it carries out at the same time.
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


def start_workers(
    job: Job, worker: type = Worker, tell: Tell = lambda text: None
) -> list[ActorWorker]:
    """Start the workers of a job; return them when the first one is ready."""
    return start_actors(job.analysis.workers, worker, job, tell=tell)


def start_actors(
    workers: Workers,
    worker: type,
    argument: Any,
    in_flight: int = IN_FLIGHT,
    tell: Tell = lambda text: None,
) -> list[ActorWorker]:
    """Start workers of a class; return them when the first one is ready. See `ActorWorker`.

    tell: called with what is begun.
    """
    if not ray.is_initialized():
        tell("starting Ray")
    connect_to_ray(workers)
    if workers.dashboard:
        tell(dashboard_line() or "no dashboard of Ray is served")
    # On a cluster those for which there is no room wait for nodes; an autoscaler sees them wait.
    count = workers.most if is_on_cluster() else workers.count
    tell(f"starting {count} workers, which build the model")
    started = [ActorWorker(workers, worker, argument, in_flight) for _ in range(count)]
    # A model that cannot be built then raises one error here, not one for every checkpoint.
    while not any(one.is_usable() for one in started):
        time.sleep(0.02)
    return started
