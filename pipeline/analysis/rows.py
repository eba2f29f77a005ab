"""Compute the rows of a checkpoint, one for each group, and commit them together."""

import logging
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pipeline.analysis.contexts import Contexts, Records
from pipeline.analysis.job import Group, Job, Plan, fingerprint_parts
from pipeline.analysis.memory import memory_errors
from pipeline.analysis.parts import DIGEST_OF
from pipeline.analysis.reading import Loaded
from pipeline.analysis.transient import TRANSIENT
from pipeline.checkpoints import Checkpoint
from pipeline.engine.finite import caused_by_the_model
from pipeline.errors import CheckpointError
from pipeline.measures import apply
from pipeline.measures.base import Context
from pipeline.schema import Values
from pipeline.store import Row, Store
from pipeline.store import non_finite as non_finite_store
from pipeline.store.fingerprint import fingerprint
from pipeline.store.writer import NewRow, Writer

_log = logging.getLogger(__name__)


class Rows:
    """Computes the rows of the checkpoint whose weights are in the model, and commits them."""

    def __init__(self, job: Job, store: Store, contexts: Contexts) -> None:
        self._job, self._store, self._contexts = job, store, contexts
        self._by_definition: dict[str, set] = defaultdict(set)  # patterns of NaN, by group
        self._written_for: int | None = None

    def commit(
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
        records = self._contexts.records(groups, halved)
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

    @memory_errors()
    def _row(
        self,
        checkpoint: Checkpoint,
        loaded: Loaded,
        group: Group,
        plan: Plan,
        records: Records,
        deviation: Mapping[str, str],
    ) -> NewRow:
        """Compute one group's row."""
        started = time.perf_counter()
        reference = plan.references.get(group.name)
        context = self._contexts.of(group, records, reference)
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
                **fingerprint_parts(self._job, group),
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
