"""The pool: Ray actors that each hold a resident model, and who of them gets the next checkpoint.

A killed actor is restarted by Ray and rebuilds its model in its constructor; what it had in hand
is reported as failed (`may_pass` tells that trying again helps) and it gets no work until it
answers again.
"""

import logging
import math
import os
import secrets
import threading
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from pipeline.checkpoints import Checkpoint
from pipeline.config import Workers
from pipeline.errors import InputError
from pipeline.measures.base import Reference
from pipeline.plan import Cell, Job, Plan
from pipeline.worker import TRANSIENT, Outcome, Worker

# Nothing large passes through Ray: weights are read, and rows written, by the workers themselves.
_OBJECT_STORE_BYTES = 200 * 2**20


def may_pass(error: BaseException | None) -> bool:
    """Whether trying again may help: a lost worker, reading or writing, memory."""
    return isinstance(error, (RayError, *TRANSIENT))


@dataclass(eq=False)
class _Seat:
    """One actor. returning: what it answers once it is (again) usable, None when it is."""

    actor: Any
    returning: ray.ObjectRef | None
    in_hand: int = 0


class Pool:
    """Actors for one job, from the first call on until the end of the `with` block.

    Any thread may call; a call waits for the actor with the fewest checkpoints in hand.
    """

    # What one actor has in hand: one checkpoint computes while the next is read; see `Worker`.
    IN_FLIGHT = 2

    def __init__(self, job: Job, worker: type = Worker) -> None:
        self._job, self._worker = job, worker
        self._seats: list[_Seat] = []
        self._plan: ray.ObjectRef | None = None
        self._changed = threading.Condition()
        self._closed = False

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            for seat in self._seats:
                ray.kill(seat.actor)

    def references(self, checkpoint: Checkpoint) -> dict[str, Reference]:
        """See `Worker.references`."""
        return self._call("references", checkpoint)

    def assign(self, plan: Plan) -> None:
        """Give the plan to all workers at once; `compute` is about its cells."""
        self._start()
        self._plan = ray.put(plan)

    def compute(self, cell: Cell) -> Outcome:
        """See `Worker.compute`. Raises what it raised, or the RayError that lost its worker."""
        return self._call("compute", cell, self._plan)

    def _call(self, method: str, *arguments: Any) -> Any:
        self._start()
        seat = self._take()
        try:
            return ray.get(getattr(seat.actor, method).remote(*arguments))
        except RayTaskError as error:
            raise error.cause from error
        except RayActorError:
            seat.returning = _sign_of_life(seat.actor)
            raise
        finally:
            self._give_back(seat)

    def _start(self) -> None:
        with self._changed:
            if self._closed:
                raise RuntimeError("the pool is closed: it computes nothing more")
            if not self._seats:
                connect(self._job.analysis.workers)
                self._seats = [self._seat() for _ in range(self._job.analysis.workers.count)]
                # A model that cannot be built is one error here, not one for every checkpoint.
                first, _ = ray.wait([seat.returning for seat in self._seats])
                ray.get(first)

    def _seat(self) -> _Seat:
        workers = self._job.analysis.workers
        actor = (
            ray.remote(self._worker)
            .options(
                num_cpus=workers.cpus,
                num_gpus=workers.gpus,
                max_concurrency=self.IN_FLIGHT,
                max_restarts=-1,
                max_task_retries=0,
                scheduling_strategy="SPREAD",
            )
            .remote(self._job)
        )
        return _Seat(actor, _sign_of_life(actor))

    def _take(self) -> _Seat:
        with self._changed:
            while (seat := self._least_loaded()) is None:
                # Actors that start or come back tell nobody: look again now and then.
                self._changed.wait(timeout=0.1)
            seat.in_hand += 1
            return seat

    def _least_loaded(self) -> _Seat | None:
        free = [seat for seat in self._seats if _is_usable(seat) and seat.in_hand < self.IN_FLIGHT]
        return min(free, key=lambda seat: seat.in_hand, default=None)

    def _give_back(self, seat: _Seat) -> None:
        with self._changed:
            seat.in_hand -= 1
            self._changed.notify()


def _sign_of_life(actor: Any) -> ray.ObjectRef:
    """Answered when the actor is constructed; unlike work, it waits for one that restarts."""
    return actor.__ray_ready__.options(max_task_retries=-1).remote()


def _is_usable(seat: _Seat) -> bool:
    """Raises the error that the actor's constructor ended with."""
    if seat.returning is not None and ray.wait([seat.returning], timeout=0)[0]:
        ray.get(seat.returning)
        seat.returning = None
    return seat.returning is None


def connect(workers: Workers) -> None:
    """Be connected to a Ray that has room: the one at RAY_ADDRESS, else one on this machine.

    Raises InputError where this machine lacks the GPUs that were asked for.
    """
    address = os.environ.get("RAY_ADDRESS")
    if address:
        if not ray.is_initialized():
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
    ray.init(
        address="local",  # not the cluster that somebody else has started on this machine
        num_cpus=max(os.cpu_count() or 1, math.ceil(workers.count * workers.cpus)),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=_OBJECT_STORE_BYTES,
    )


def _has_room(workers: Workers) -> bool:
    resources = ray.cluster_resources()
    needed = {"CPU": workers.count * workers.cpus, "GPU": workers.count * workers.gpus}
    return all(resources.get(name, 0) >= amount for name, amount in needed.items())
