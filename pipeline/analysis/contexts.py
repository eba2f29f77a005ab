"""The arguments of measures at the checkpoint whose weights are in the model.

Passes over one input that several measures want are run once.
"""

from collections.abc import Collection, Mapping, Sequence

from pipeline.analysis.inputs import load_input
from pipeline.analysis.job import Group, Job, setting_of
from pipeline.analysis.memory import memory_errors
from pipeline.checkpoints import Checkpoint
from pipeline.engine.batches import Limits
from pipeline.engine.changes import run_changed
from pipeline.engine.finite import is_finite
from pipeline.engine.forward import run
from pipeline.engine.record import Record, merge
from pipeline.errors import CheckpointError
from pipeline.measures import apply
from pipeline.measures.base import Context, Reference
from pipeline.models.resident import Resident
from pipeline.store import Store

Records = Mapping[tuple, Record]


class Contexts:
    """Runs the forward passes of groups, and returns the arguments of their measures.

    parameters: by group, the names of the weights that its measure reads; None for the whole model.
    """

    def __init__(self, job: Job, store: Store, resident: Resident) -> None:
        self._resident, self._memory = resident, job.analysis.workers.memory
        digests = job.input_digests
        self._inputs = {name: load_input(store, name, digests[name]) for name in digests}
        self._settings = {
            group.name: setting_of(group, resident.facts, self._inputs) for group in job.groups
        }
        # Built once: a pass may hold index maps as large as its input.
        self._passes = {
            group.name: group.measure.passes(self._settings[group.name]) for group in job.groups
        }
        self.parameters: Mapping[str, Collection[str] | None] = {
            group.name: apply.weights_read(group.measure, self._settings[group.name])
            for group in job.groups
        }

    @memory_errors()
    def records(self, groups: Sequence[Group], halved: bool = False) -> dict[tuple, Record]:
        """Run the forward passes of some groups; return their records by `Pass.key`."""
        wanted = merge(wanted for group in groups for wanted in self._passes[group.name])
        limits = Limits(self._memory, divided=2 if halved else 1)
        records = {
            one.key: run(self._resident, self._inputs[one.input], one, limits)
            for one in wanted
            if one.change is None
        }
        changed = [one for one in wanted if one.change is not None]
        return records | run_changed(self._resident, self._inputs, changed, records, limits)

    def of(self, group: Group, records: Records, reference: Reference | None = None) -> Context:
        """Return the arguments of a group's measure, from records that `records` returned."""
        own = tuple(records[wanted.key] for wanted in self._passes[group.name])
        weights, names = self._resident.weights, self.parameters[group.name]
        if names is not None:  # also where all were read, so that no result depends on that
            weights = weights.only(names)
        return Context(self._settings[group.name], weights, own, reference)

    def references(self, groups: Sequence[Group], checkpoint: Checkpoint) -> dict[str, Reference]:
        """Compute the references of the measures of groups from the checkpoint in the model.

        Raises CheckpointError where its numbers are not finite.
        """
        records, found = self.records(groups), {}
        for group in groups:
            context = self.of(group, records)
            if not is_finite(context.records, context.weights):
                raise CheckpointError(
                    f"step {checkpoint.step} ({checkpoint.uri}): measure {group.name!r} needs "
                    "it as its reference, and its numbers are not finite: leave it out by "
                    "`select`"
                )
            found[group.name] = apply.reference(group.measure, context)
        return found
