"""A worker: a resident model that reads one checkpoint ahead, computes, and commits rows."""

import gc
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from pipeline.analysis.inputs import load_input
from pipeline.analysis.job import (
    Cell,
    Group,
    Job,
    Plan,
    fingerprint_parts,
    reference_key,
    setting_of,
)
from pipeline.analysis.parts import DIGEST_OF
from pipeline.analysis.reading import Loaded, Reader
from pipeline.analysis.transient import OUT_OF_MEMORY, TRANSIENT
from pipeline.checkpoints import Checkpoint
from pipeline.checkpoints.fetch import Copies
from pipeline.checkpoints.metadata import metadata_folder
from pipeline.checkpoints.places import listed_folder
from pipeline.engine.batches import activation_bytes
from pipeline.engine.changes import run_changed
from pipeline.engine.finite import caused_by_the_model, is_finite
from pipeline.engine.forward import run
from pipeline.engine.record import Record, merge
from pipeline.errors import CheckpointError, first_line
from pipeline.measures import apply
from pipeline.measures.base import Context, Reference
from pipeline.models.resident import Resident
from pipeline.models.transfer import transfer_to
from pipeline.models.weights import Weights
from pipeline.outside import reading
from pipeline.schema import Values
from pipeline.store import Row
from pipeline.store import non_finite as non_finite_store
from pipeline.store.fingerprint import fingerprint
from pipeline.store.writer import NewRow, Writer

_log = logging.getLogger(__name__)


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Convert the RuntimeError that torch's CPU allocator raises to a MemoryError.

    CUDA has a class for it (`torch.OutOfMemoryError`); on a CPU only the message identifies it.
    """
    try:
        yield
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):
            raise
        raise MemoryError(first_line(error)) from None


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
        self._store = job.store
        digests = job.input_digests
        inputs = {name: load_input(self._store, name, digests[name]) for name in digests}
        self._inputs = inputs
        self._settings = {
            group.name: setting_of(group, self._resident.facts, inputs) for group in job.groups
        }
        # Built once: a pass may hold index maps as large as its input.
        self._passes = {
            group.name: group.measure.passes(self._settings[group.name]) for group in job.groups
        }
        cache = job.analysis.cache
        self._copies = Copies(cache.checkpoints, cache.bytes, self._resident.most_bytes)
        parameters = {
            name: apply.weights_read(self._groups[name].measure, setting)
            for name, setting in self._settings.items()
        }
        self._reader = Reader(self._resident, self._store, parameters, job.analysis.audit == "off")
        self._parameters = parameters
        self._by_definition: dict[str, set] = defaultdict(set)  # patterns of NaN, by group
        self._written_for: int | None = None
        self._free_since: float | None = None  # end of the last computation, or first call
        self._reading, self._computing = threading.Lock(), threading.Lock()

    @_memory_errors()
    def references(self, checkpoint: Checkpoint) -> dict[str, Reference]:
        """Compute and store the references of the measures from this checkpoint.

        Raises CheckpointError where it cannot be read, or its numbers are not finite.
        """
        groups = self.job.needing_reference()
        with self._copies.of(checkpoint) as copy:
            loaded = self._reader.read(copy, [group.name for group in groups])
        found = {}
        with self._computing, torch.inference_mode():
            self._swap(loaded.weights, checkpoint)
            records = self._records(groups)
            for group in groups:
                context = self._context(group, records)
                if not is_finite(context.records, context.weights):
                    raise CheckpointError(
                        f"step {checkpoint.step} ({checkpoint.uri}): measure {group.name!r} needs "
                        "it as its reference, and its numbers are not finite: leave it out by "
                        "`select`"
                    )
                found[group.name] = apply.reference(group.measure, context)
        for group in groups:
            key = reference_key(self.job, group, loaded.digests[group.name])
            self._store.save_reference(group.name, key, found[group.name])
        return found

    @_memory_errors()
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
                halved = self._commit_in_memory(checkpoint, loaded, missing, plan)
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

    def _commit_in_memory(
        self, checkpoint: Checkpoint, loaded: Loaded, groups: list[Group], plan: Plan
    ) -> bool:
        """Commit; if memory runs out, retry with half the batch size. Return whether it did."""
        done: set[str] = set()
        try:
            self._commit(checkpoint, loaded, groups, plan, done)
            return False
        except OUT_OF_MEMORY as error:
            reason = first_line(error)
        # Outside the handler: the traceback of the error refers to the tensors of the batch that
        # was too large, which could not be freed.
        _log.warning("step %d: out of memory, halving the batch: %s", checkpoint.step, reason)
        if self._transfer is not None:
            self._transfer.stop("memory ran out while computing")
        gc.collect()  # a cycle of references may keep the tensors
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # cached blocks may be too fragmented for the smaller batch
        left = [group for group in groups if group.name not in done]
        try:
            self._commit(checkpoint, loaded, left, plan, done, halved=True)
            return True
        except OUT_OF_MEMORY as error:
            raise CheckpointError(
                f"step {checkpoint.step} ({checkpoint.uri}): out of memory, also with half the "
                f"batch ({first_line(error)}): lower workers.memory, or have fewer workers share "
                "the device"
            ) from error

    def _commit(
        self,
        checkpoint: Checkpoint,
        loaded: Loaded,
        groups: list[Group],
        plan: Plan,
        done: set[str],
        halved: bool = False,
    ) -> None:
        """Compute groups one after another, commit their rows together, and enter them in `done`.

        Together, since the storage is waited for once then. What was computed is committed also
        where another group fails.
        """
        records = self._records(groups, halved)
        deviation = {"batch": "halved"} if halved else {}
        failures: list[tuple[str, Exception]] = []
        rows: list[NewRow] = []
        try:
            for group in groups:
                try:
                    rows.append(self._row(checkpoint, loaded, group, plan, records, deviation))
                except TRANSIENT:
                    raise  # the whole checkpoint is tried again
                # Any other error ends this measure only: the others are still committed.
                except Exception as error:
                    failures.append((group.name, error))
        finally:
            if rows:
                self._writer(plan).write(rows)
            done |= {name for name, _, _ in rows}
        if failures:
            name, error = failures[0]
            raise CheckpointError(
                f"step {checkpoint.step} ({checkpoint.uri}): measure {name!r} failed: {error}"
            ) from error

    def _writer(self, plan: Plan) -> Writer:
        if self._written_for != plan.number:
            self._written_for = plan.number
            self._rows_of_plan = Writer(self._store, plan.number, plan.templates)
        return self._rows_of_plan

    @_memory_errors()
    def _row(
        self,
        checkpoint: Checkpoint,
        loaded: Loaded,
        group: Group,
        plan: Plan,
        records: Mapping[tuple, Record],
        deviation: Mapping[str, str],
    ) -> NewRow:
        """Compute one group's row."""
        started = time.perf_counter()
        reference = plan.references.get(group.name)
        context = self._context(group, records, reference)
        values = apply.compute(group.measure, context)
        values = {name: np.asarray(value) for name, value in values.items()}
        digest = loaded.digests[group.name]
        row = Row(
            step=checkpoint.step,
            fingerprint=fingerprint(plan.variants[group.name], digest),
            digest=digest,
            uri=checkpoint.uri,
            tokens_seen=checkpoint.tokens_seen,
            details={
                **fingerprint_parts(self.job, group),
                "reference_values": reference,
                **(DIGEST_OF if group.name in loaded.in_part else {}),
                **deviation,
            },
        )
        if wrong := self._not_finite(group, values, context):
            # Before the row itself, so that no reader sees the row without this record.
            non_finite_store.keep_row(self._store, group.name, row.fingerprint, wrong)
        seconds = time.perf_counter() - started
        _log.info("step %d: %s, %.2f s", checkpoint.step, group.name, seconds)
        return group.name, row, values

    def _not_finite(self, group: Group, values: Values, context: Context) -> dict[str, str]:
        """Return, by variable, how many of its numbers are not finite because of the model."""
        # A pattern of NaN that was found to be by definition before needs no second computation.
        pattern = tuple(
            (name, hash(np.isnan(value).tobytes()), bool(np.isinf(value).any()))
            for name, value in values.items()
            if value.dtype.kind == "f" and not np.isfinite(value).all()
        )
        if not pattern or pattern in self._by_definition[group.name]:
            return {}
        wrong = caused_by_the_model(
            values,
            context.records,
            context.weights,
            lambda records, weights: apply.compute(
                group.measure, replace(context, records=records, weights=weights)
            ),
        )
        if not wrong:
            self._by_definition[group.name].add(pattern)
        return {name: f"{mask.sum():,} of {mask.size:,}" for name, mask in wrong.items()}

    @_memory_errors()
    def _records(self, groups: Sequence[Group], halved: bool = False) -> dict[tuple, Record]:
        """Run the forward passes of some groups; return their records by `Pass.key`."""
        wanted = merge(wanted for group in groups for wanted in self._passes[group.name])
        limits: dict[str, Any] = {
            "memory_bytes": self.job.analysis.workers.memory,
            "divided": 2 if halved else 1,
        }
        records = {
            one.key: run(self._resident, self._inputs[one.input], one, **limits)
            for one in wanted
            if one.change is None
        }
        changed = [one for one in wanted if one.change is not None]
        return records | run_changed(self._resident, self._inputs, changed, records, **limits)

    def _context(
        self,
        group: Group,
        records: Mapping[tuple, Record],
        reference: Reference | None = None,
    ) -> Context:
        """Return the arguments of a group's measure for the resident checkpoint."""
        own = tuple(records[wanted.key] for wanted in self._passes[group.name])
        weights, names = self._resident.weights, self._parameters[group.name]
        if names is not None:  # also where all were read, so that no result depends on that
            weights = weights.only(names)
        return Context(self._settings[group.name], weights, own, reference)
