"""A worker: a resident model that reads one checkpoint while it computes another."""

import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch

from pipeline.analysis.contexts import Contexts
from pipeline.analysis.job import Cell, Group, Job, Plan, reference_key
from pipeline.analysis.memory import halved_if_needed, memory_errors
from pipeline.analysis.reading import Loaded, Reader
from pipeline.analysis.rows import Rows
from pipeline.analysis.transient import TRANSIENT
from pipeline.checkpoints import Checkpoint
from pipeline.checkpoints.fetch import Copies
from pipeline.checkpoints.metadata import metadata_folder
from pipeline.checkpoints.places import listed_folder
from pipeline.engine.batches import activation_bytes
from pipeline.measures.base import Reference
from pipeline.models.resident import Resident
from pipeline.models.transfer import transfer_to
from pipeline.models.weights import Weights
from pipeline.outside import reading
from pipeline.store.fingerprint import fingerprint


@dataclass(frozen=True)
class Outcome:
    """The result of one cell: the groups computed, and those that turned out to be present.

    reading, computing: seconds spent on either (fetching counts as reading), without waiting for
    the other thread. idle: seconds before computing in which the worker had checkpoints to do but
    none was loaded. halved: whether memory ran out, and the groups were computed in batches of half
    the size.
    """

    step: int
    computed: tuple[str, ...]
    present: tuple[str, ...] = ()
    reading: float = 0.0
    computing: float = 0.0
    idle: float = 0.0
    halved: bool = False


class Worker:
    """One resident model, whose methods may be called from two threads at once.

    While one thread computes a checkpoint, the other reads the next one, and on a GPU copies it
    there. One lock for each activity makes sure that at most one checkpoint is read and one
    computed at a time. The first is kept until the weights are in the model, so that at most one
    set of weights is beside those of the model.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._groups = {group.name: group for group in job.groups}
        workers = job.analysis.workers
        torch.set_num_threads(workers.threads)
        trusted = job.analysis.trust_remote_code
        self._resident = Resident(
            metadata_folder(listed_folder(job.architecture), code=trusted),
            workers.device,
            workers.dtype,
            trusted,
        )
        self._resident.facts = replace(self._resident.facts, unmet=job.unmet)
        reserve = activation_bytes(self._resident.device, workers.memory)
        self._transfer = transfer_to(self._resident.device, reserve)
        cache = job.analysis.cache
        self._copies = Copies(cache.checkpoints, cache.bytes, self._resident.most_bytes)
        self._store = job.store
        self._contexts = Contexts(job, self._store, self._resident)
        self._reader = Reader(
            self._resident,
            self._store,
            self._contexts.parameters,
            keeps_non_finite=job.analysis.audit == "off",
        )
        self._rows = Rows(job, self._store, self._contexts)
        self._free_since: float | None = None  # end of the last computation, or first call
        self._reading, self._computing = threading.Lock(), threading.Lock()

    @memory_errors()
    def references(self, checkpoint: Checkpoint) -> dict[str, Reference]:
        """Compute and store the references of the measures from this checkpoint.

        Raises CheckpointError where it cannot be read, or its numbers are not finite.
        """
        groups = self.job.needing_reference()
        with self._copies.of(checkpoint) as copy:
            loaded = self._reader.read(copy, [group.name for group in groups])
        with self._computing, torch.inference_mode():
            self._swap(loaded.weights, checkpoint)
            found = self._contexts.references(groups, checkpoint)
        for group in groups:
            key = reference_key(self.job, group, loaded.digests[group.name])
            self._store.save_reference(group.name, key, found[group.name])
        return found

    @memory_errors()
    def compute(self, cell: Cell, plan: Plan) -> Outcome:
        """Compute and commit what is missing at one checkpoint.

        Raises NonFiniteError where its weights are not finite and the audit leaves such
        checkpoints out; CheckpointError, naming the step, the place and the measure. Every measure
        that could be computed is committed before that.
        """
        if self._free_since is None:  # idle time counts from the first call
            self._free_since = time.perf_counter()
        checkpoint = cell.checkpoint
        with ExitStack() as until_swapped:
            with self._copies.of(checkpoint) as copy:
                started = time.perf_counter()
                missing = self._missing(cell, plan, self._reader.known_digests(copy, cell.groups))
                names = [group.name for group in missing]
                if not missing:
                    return Outcome(checkpoint.step, (), cell.groups)
                if self._reader.reads_all(names):
                    _ = copy.parts  # fetched outside the lock: both threads may fetch at a time
                reading = time.perf_counter() - started
                until_swapped.enter_context(self._reading)
                started = time.perf_counter()
                loaded = self._ahead(self._reader.read(copy, names))
                reading += time.perf_counter() - started
            # By the digests of the bytes that were read.
            missing = [one for one in self._missing(cell, plan, loaded.digests) if one in missing]
            with self._computing, torch.inference_mode():
                # The setting of torch is per thread, and this one may not be that of `__init__`.
                torch.set_num_threads(self.job.analysis.workers.threads)
                self._swap(loaded.weights, checkpoint)
                loaded = replace(loaded, weights={})
                until_swapped.close()  # the other thread may now read into memory
                started = time.perf_counter()
                idle = started - self._free_since
                halved = self._commit(checkpoint, loaded, missing, plan)
                self._free_since = time.perf_counter()
                computing = self._free_since - started
        names = tuple(group.name for group in missing)
        present = tuple(name for name in cell.groups if name not in names)
        return Outcome(checkpoint.step, names, present, reading, computing, idle, halved)

    def _ahead(self, loaded: Loaded) -> Loaded:
        """Copy weights to the GPU, if it is one, while the other thread computes there."""
        if self._transfer is None:
            return loaded
        dtypes = self._resident.dtypes(loaded.weights)
        return replace(loaded, weights=self._transfer.ahead(loaded.weights, dtypes))

    def _swap(self, weights: Weights, checkpoint: Checkpoint) -> None:
        if self._transfer is not None:
            self._transfer.await_copies(weights)
        with reading(checkpoint.uri, passing=TRANSIENT):
            self._resident.swap(weights, checkpoint.uri)

    def _missing(self, cell: Cell, plan: Plan, digests: Mapping[str, str]) -> list[Group]:
        """Return the groups whose committed row is not of the weights with these digests.

        Those without a digest, which is not known yet, are among them.
        """
        return [
            self._groups[name]
            for name in self._groups
            if name in cell.groups
            and not (
                name in digests
                and cell.committed.get(name) == fingerprint(plan.variants[name], digests[name])
            )
        ]

    def _commit(
        self, checkpoint: Checkpoint, loaded: Loaded, groups: list[Group], plan: Plan
    ) -> bool:
        """Compute and commit rows; return whether memory ran out, so that batches were halved."""
        done: set[str] = set()

        def compute(halved: bool) -> None:
            left = [group for group in groups if group.name not in done]
            self._rows.commit(checkpoint, loaded, left, plan, done, halved)

        return halved_if_needed(compute, checkpoint, self._free)

    def _free(self) -> None:
        """Free what the device holds of the next checkpoint.

        The other thread may wait with it for the lock of computing, which this one holds.
        """
        if self._transfer is not None:
            self._transfer.free("memory ran out while computing")
