"""The values of an analysis: its groups, the job of each worker, and what identifies a row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pipeline.analysis.survey import Survey
from pipeline.checkpoints import Checkpoint
from pipeline.checkpoints.selection import select
from pipeline.config import Analysis, GroupOptions
from pipeline.engine.forward import ENGINE_VERSION
from pipeline.inputs import Input
from pipeline.measures import apply
from pipeline.measures.base import Measure, Reference, Setting
from pipeline.models.assumptions import Unmet
from pipeline.models.facts import ModelFacts
from pipeline.store import Store
from pipeline.store.fingerprint import fingerprint, variant_id
from pipeline.store.templates import Template


@dataclass(frozen=True)
class Group:
    """One measure on one input: a group of the store."""

    name: str
    measure: Measure
    input_name: str | None
    options: GroupOptions

    def applies_to(self, checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
        """Return those of an analysis's checkpoints at which the group is to be computed."""
        chosen = self.options.select
        return select(checkpoints, **({} if chosen is None else chosen.model_dump()))


@dataclass(frozen=True)
class Job:
    """The part of an analysis that every worker gets. Small: inputs are read from the store.

    architecture: the checkpoint whose config.json the model is built from.
    unmet: the assumptions that the model does not meet, checked once for all workers.
    """

    analysis: Analysis
    architecture: Checkpoint
    groups: tuple[Group, ...]
    input_digests: Mapping[str, str]
    unmet: Unmet = field(default_factory=dict)

    @property
    def store(self) -> Store:
        """The store of the results."""
        return Store(self.analysis.store)

    def needing_reference(self) -> tuple[Group, ...]:
        """Return the groups that need a quantity of the reference checkpoint first."""
        return tuple(group for group in self.groups if group.measure.reference_from)


@dataclass(frozen=True)
class Cell:
    """One checkpoint and the names of the groups to compute there.

    committed: the fingerprint of each group's present row. Where the weights' digest is not known
    yet, the worker compares before it computes, so that planning reads no weights.
    """

    checkpoint: Checkpoint
    groups: tuple[str, ...]
    committed: Mapping[str, str]


@dataclass(frozen=True)
class Plan:
    """The cells that are missing from the store, and what their rows are fingerprinted with.

    number: of the store's version that planned them.
    """

    cells: tuple[Cell, ...]
    variants: Mapping[str, str]
    templates: tuple[Template, ...]
    number: int
    references: Mapping[str, Reference]
    complete: int


@dataclass(frozen=True)
class Prepared:
    """A validated analysis: its checkpoints, and the setting of each measure.

    surveyed: the listing from which the checkpoints were selected, with the verdict on them. notes:
    sentences on parts of the run that were left out, and on assumptions that nothing proves.
    failed: the steps that cannot be computed because of their config.json, each with the reason.
    """

    job: Job
    surveyed: Survey
    settings: Mapping[str, Setting]
    inputs: Mapping[str, Input]
    architecture: str
    notes: tuple[str, ...] = ()
    failed: Mapping[int, str] = field(default_factory=dict)

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """The checkpoints to compute, in order of step."""
        return tuple(one for one in self.surveyed.checkpoints if one.step not in self.failed)

    @property
    def weights_read(self) -> dict[str, frozenset[str] | None]:
        """The names of the parameters that each group reads, None for all; by group."""
        return {
            group.name: apply.weights_read(group.measure, self.settings[group.name])
            for group in self.job.groups
        }

    def checkpoints_of(self, group: Group) -> list[Checkpoint]:
        """Return the checkpoints at which a group is to be computed.

        The group's selection is applied before failed checkpoints are removed, so that a failure
        does not change the rest of the selection.
        """
        chosen = group.applies_to(self.surveyed.checkpoints)
        return [one for one in chosen if one.step not in self.failed]

    @property
    def undefined(self) -> dict[str, str]:
        """The groups with variables that are NaN at every checkpoint, each with the reason."""
        reasons = {
            group.name: apply.why_undefined(group.measure, self.settings[group.name])
            for group in self.job.groups
        }
        return {name: why for name, why in reasons.items() if why}

    @property
    def said_of_inputs(self) -> dict[str, str]:
        """Sentences on how texts and data sets were cut into sequences, by input."""
        return {name: one.said for name, one in self.inputs.items() if one.said}

    @property
    def drawn_from(self) -> dict[str, str]:
        """The token ids from which each random input draws, and the reason, by input."""
        made = self.inputs.items()
        return {
            name: one.attributes["drawn_from"]
            for name, one in made
            if "drawn_from" in one.attributes
        }


def setting_of(group: Group, facts: ModelFacts, inputs: Mapping[str, Input]) -> Setting:
    """Return the setting to which a group's measure is applied."""
    others = {name: inputs[name] for name in group.measure.other_inputs}
    return Setting(facts, inputs.get(group.input_name or ""), others)


def variant_of(job: Job, group: Group, reference: Reference | None) -> str:
    """Return the fingerprint of everything but the weights that determines a group's rows."""
    # The part is called `reference` in every store: another name would compute all rows again.
    return variant_id(**fingerprint_parts(job, group), reference=reference)


def reference_key(job: Job, group: Group, weights_digest: str) -> str:
    """Return the key under which a reference is stored: a digest of all that determines it."""
    return fingerprint(variant_id(**fingerprint_parts(job, group)), weights_digest)


def fingerprint_parts(job: Job, group: Group) -> dict[str, Any]:
    """Return everything that determines a group's rows, except the weights and the reference."""
    workers, measure = job.analysis.workers, group.measure
    others = {name: job.input_digests[name] for name in measure.other_inputs}
    relied = {name for of in measure.relies_on.values() for name in of}
    unmet = sorted(relied & job.unmet.keys())
    # Keys that were added later are present only where they apply: rows that were stored before
    # then keep their fingerprint.
    return {
        **({"unmet": unmet} if unmet else {}),
        **({"source": measure.source.digest} if measure.source else {}),
        **({"other_inputs": others} if others else {}),
        **({"float16": sorted(group.options.float16)} if group.options.float16 else {}),
        "measure": measure.name,
        "version": measure.version,
        "parameters": measure.model_dump(mode="json"),
        "input": job.input_digests.get(group.input_name or ""),
        "engine": ENGINE_VERSION,
        "dtype": workers.dtype,
        "device": workers.device,
        # A setting of the process, which changes digits of float32 products on GPUs.
        "tf32": workers.device == "cuda" and torch.backends.cuda.matmul.allow_tf32,
    }
