"""The plan of an analysis: the rows that its store lacks.

Everything that can be refused is refused here, before any weights are read.
"""

import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from pipeline.analysis.architecture import Architecture, architecture_of
from pipeline.analysis.faults import Faults
from pipeline.analysis.inputs import STANDARD_INPUTS, make_input
from pipeline.analysis.parts import known_digest_of
from pipeline.analysis.survey import Survey
from pipeline.checkpoints import Checkpoint
from pipeline.checkpoints.contents import assumed_of_model
from pipeline.checkpoints.foreign import conversion_notes
from pipeline.checkpoints.metadata import metadata_folder
from pipeline.checkpoints.places import files_elsewhere, listed_folder, place_of
from pipeline.checkpoints.selection import select
from pipeline.checkpoints.stored import Folder
from pipeline.config import Analysis, GroupOptions, together, validated
from pipeline.engine.form import unmet_assumptions
from pipeline.engine.forward import ENGINE_VERSION
from pipeline.errors import InputError, suggestion
from pipeline.inputs import Input
from pipeline.measures import apply, measure_class
from pipeline.measures.base import Measure, Reference, Setting
from pipeline.measures.names import split_key
from pipeline.models.assumptions import Unmet
from pipeline.models.facts import ModelFacts, facts_of
from pipeline.outside import reading
from pipeline.store import Store
from pipeline.store.commits import Commit, latest
from pipeline.store.fingerprint import fingerprint, variant_id
from pipeline.store.templates import Template, check_half

_SMALL_MODEL = 10**9  # numbers, which every machine can hold


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


def resolve(analysis: Analysis, surveyed: Survey) -> Prepared:
    """Validate an analysis and build its inputs, without writing.

    Raises RefusedError with all faults that are found.
    """
    faults = Faults()
    prepared = examine(analysis, surveyed, faults)
    faults.refuse()
    assert prepared is not None, "nothing is prepared only where there is a fault"
    return prepared


def examine(analysis: Analysis, surveyed: Survey, faults: Faults) -> Prepared | None:
    """Validate an analysis and build its inputs, without writing; add what is wrong to `faults`.

    Returns the analysis without the groups that have a fault; None where none is left, or where
    the run has no model that can be built.
    """
    groups, wanted = read_groups(analysis, faults)
    described = None
    with faults.gathered("checkpoints"):
        described = _described(analysis, surveyed, groups)
    if described is None:
        return None
    shared, source, facts = described
    run_folder = metadata_folder(surveyed.run, source)
    inputs = _inputs(analysis, wanted, str(run_folder), facts, faults)
    sound: list[Group] = []
    settings: dict[str, Setting] = {}
    for group in groups:
        if not set(_inputs_of(group)) <= inputs.keys():
            continue
        with faults.gathered(f"measures.{group.name}"):
            setting = setting_of(group, facts, inputs)
            apply.check(group.measure, setting)
            group.applies_to(surveyed.checkpoints)
            settings[group.name] = setting
            sound.append(group)
    if not sound:
        return None

    digests = {name: made.digest for name, made in inputs.items()}
    longest = max((made.tokens.shape[1] for made in inputs.values()), default=0)
    failed = dict(sorted({**shared.failed, **shared.too_short(longest)}.items()))
    of_inputs = (made.note for made in inputs.values() if made.note)
    of_model = assumed_of_model(place_of(source.uri), source)
    notes = (*conversion_notes(run_folder), *surveyed.notes, *of_model, *of_inputs)
    job = Job(analysis, shared.source, tuple(sound), digests, facts.unmet)
    return Prepared(job, surveyed, settings, inputs, shared.digest, notes, failed)


def _described(
    analysis: Analysis, surveyed: Survey, groups: Iterable[Group]
) -> tuple[Architecture, Folder, ModelFacts]:
    """Return the run's architecture, the folder that it is read from, and the model's facts."""
    checkpoints, trusted = surveyed.checkpoints, analysis.trust_remote_code
    shared = architecture_of(checkpoints, surveyed.listed, Store(analysis.store), trusted)
    source = listed_folder(shared.source)
    folder = metadata_folder(source, code=trusted)
    facts = facts_of(folder, trusted)
    _refuse_unfillable(facts, checkpoints, shared.source.uri)
    # The check builds and runs a small model, which takes some seconds.
    if any(group.measure.relies_on for group in groups):
        with reading(f"{shared.source.uri}/config.json", InputError, (OSError, MemoryError)):
            facts = replace(facts, unmet=unmet_assumptions(folder, trusted))
    return shared, source, facts


def _refuse_unfillable(facts: ModelFacts, checkpoints: Sequence[Checkpoint], source: str) -> None:
    """Raise InputError for a model with more numbers than any checkpoint of the run has bytes.

    A damaged config may describe a model that no memory can hold.
    """
    sizes = [sum(file.size for file in (one.files or {}).values()) for one in checkpoints]
    if facts.n_numbers > max(_SMALL_MODEL, *sizes) and all(one.files for one in checkpoints):
        raise InputError(
            f"{source}/config.json: describes a model of {facts.n_numbers:,} numbers, and no "
            f"checkpoint of the run has more than {max(sizes):,} bytes: restore the config"
        )


def setting_of(group: Group, facts: ModelFacts, inputs: Mapping[str, Input]) -> Setting:
    """Return the setting to which a group's measure is applied."""
    others = {name: inputs[name] for name in group.measure.other_inputs}
    return Setting(facts, inputs.get(group.input_name or ""), others)


def stored_references(prepared: Prepared) -> dict[str, Reference] | None:
    """Return the stored references of the last checkpoint's weights; None if one is missing.

    {} where no group needs one, or where that checkpoint cannot be computed.
    """
    job, last = prepared.job, prepared.surveyed.checkpoints[-1]
    if not job.needing_reference() or last.step in prepared.failed:
        return {}
    if last.digest is None:  # only reading the weights can tell: a worker does it
        return None
    found = {
        group.name: job.store.load_reference(group.name, reference_key(job, group, last.digest))
        for group in job.needing_reference()
    }
    return None if None in found.values() else {k: v for k, v in found.items() if v is not None}


def plan(prepared: Prepared, references: Mapping[str, Reference]) -> Plan:
    """Return everything that is missing, planned in a version of the store of its own.

    A group whose reference could not be computed is left out: without it, its rows would have
    another meaning.
    """
    job = prepared.job
    groups = [
        group
        for group in job.groups
        if not group.measure.reference_from or group.name in references
    ]
    variants = {group.name: variant_of(job, group, references.get(group.name)) for group in groups}
    missing: dict[int, list[str]] = {checkpoint.step: [] for checkpoint in prepared.checkpoints}
    committed: dict[int, dict[str, str]] = {step: {} for step in missing}
    commits, weights_read = job.store.commits(), prepared.weights_read
    for group in groups:
        of_group = (commit for commit in commits if commit.group == group.name)
        done = latest(of_group, variants[group.name])
        read = weights_read[group.name]
        for checkpoint in prepared.checkpoints_of(group):
            if not _is_done(checkpoint, variants[group.name], done, read):
                missing[checkpoint.step].append(group.name)
                if checkpoint.step in done:
                    committed[checkpoint.step][group.name] = done[checkpoint.step].fingerprint
    # Without the listed files, but for those elsewhere, which only the listing finds: a worker asks
    # for those that are there when it begins to fetch.
    cells = tuple(
        Cell(
            replace(checkpoint, files=files_elsewhere(checkpoint)),
            tuple(missing[checkpoint.step]),
            committed[checkpoint.step],
        )
        for checkpoint in prepared.checkpoints
        if missing[checkpoint.step]
    )
    templates = tuple(
        _template(prepared, group, variants[group.name], references) for group in groups
    )
    version = job.store.require_groups(templates, plan=bool(cells))
    complete = len(prepared.checkpoints) - len(cells)
    return Plan(cells, variants, templates, version.number, dict(references), complete)


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


def read_groups(analysis: Analysis, faults: Faults) -> tuple[list[Group], dict[str, str]]:
    """Return the groups of an analysis, and the inputs that its measures read.

    Each input with the name of a group that reads it. Of a measure whose parameters are wrong,
    which is no group, the main input is among them too, so that its faults are told at once.
    """
    groups: dict[str, Group] = {}
    wanted: dict[str, str] = {}
    # A measure of the user's own may have the name of another one from another file.
    kinds: dict[str, type[Measure]] = {}
    for key, parameters in analysis.measures.items():
        with faults.gathered(f"measures.{key}"):
            named, input_name = split_key(key)
            kind = measure_class(named)
            if kind.default_input:
                wanted.setdefault(input_name or kind.default_input, key)
            group = _group(key, kind, input_name, parameters)
            name = group.measure.name
            if group.name in groups or kinds.setdefault(name, kind) is not kind:
                raise InputError(
                    f"measures.{key}: {group.name!r} would be the name of two groups, or {name!r} "
                    "of two measures: give one of them another `name`, or name it once"
                )
            groups[group.name] = group
            wanted |= dict.fromkeys(_inputs_of(group), group.name)
    return list(groups.values()), wanted


def _inputs_of(group: Group) -> list[str]:
    """Return the names of the inputs that a group reads."""
    return [name for name in (group.input_name, *group.measure.other_inputs) if name]


def _group(key: str, kind: type[Measure], input_name: str, parameters: dict[str, Any]) -> Group:
    named, where = split_key(key)[0], f"measures.{key}"
    if input_name and kind.default_input is None:
        raise InputError(
            f"{where}: measure {kind.name!r} reads weights only: remove '.{input_name}'"
        )
    shared = GroupOptions.model_fields.keys()
    options = {key: value for key, value in parameters.items() if key in shared}
    own = {key: value for key, value in parameters.items() if key not in shared}
    unknown = sorted(own.keys() - kind.model_fields.keys())
    hint = f" (for another input: {named}.<input>)"
    if faults := [
        f"unknown key {key!r}; {suggestion(key, {*kind.model_fields, *shared})}"
        f"{hint if key == 'input' else ''}"
        for key in unknown
    ]:
        raise together(where, faults)
    measure = validated(kind, own, where=where)
    name = f"{kind.name}.{input_name}" if input_name else kind.name
    group = Group(
        name, measure, input_name or kind.default_input, validated(GroupOptions, options, where)
    )
    check_half(name, measure.variables, frozenset(group.options.float16))
    return group


def _inputs(
    analysis: Analysis,
    wanted: Mapping[str, str],
    run_folder: str,
    facts: ModelFacts,
    faults: Faults,
) -> dict[str, Input]:
    """Return the inputs that groups read, by name; those with a fault are left out."""
    specs = {**STANDARD_INPUTS, **analysis.inputs}
    made: dict[str, Input] = {}
    for name, group in wanted.items():
        with faults.gathered(f"inputs.{name}"):
            if name not in specs:
                raise InputError(
                    f"measures.{group}: reads the input {name!r}, which `inputs` does not "
                    f"define; {suggestion(name, specs)}"
                )
            made[name] = make_input(name, specs[name], run_folder, facts)
    return made


def _template(
    prepared: Prepared, group: Group, variant: str, references: Mapping[str, Reference]
) -> Template:
    measure, workers = group.measure, prepared.job.analysis.workers
    setting = prepared.settings[group.name]
    attributes = {
        "measure": measure.name,
        "definition": inspect.getdoc(type(measure)) or "",
        "version": measure.version,
        "parameters": measure.model_dump(mode="json"),
        "input": setting.own_input.description() if setting.own_input else None,
        "reference_values": references.get(group.name),
        "undefined": apply.why_undefined(measure, setting),
        "computed_in": {
            "dtype": measure.computed_in(setting, workers.dtype),
            "device": workers.device,
        },
        "selected_steps": _selected_steps(prepared, group),
        # Only where there are such layers: other stores keep their attributes as they are.
        **apply.absent_heads(measure, setting.model),
    }
    coordinates = apply.coordinates(measure, setting)
    half = frozenset(group.options.float16)
    return Template(group.name, variant, measure.variables, coordinates, attributes, half)


def _selected_steps(prepared: Prepared, group: Group) -> list[int] | None:
    """Return the steps selected for a group; None where these are all steps of the run.

    With them readers can distinguish steps that were not selected from missing ones.
    """
    if prepared.job.analysis.select is None and group.options.select is None:
        return None
    return [one.step for one in group.applies_to(prepared.surveyed.checkpoints)]


def save_input(store: Store, made: Input) -> None:
    """Save an input beside the results, so that workers need no access to its source."""
    attributes = {"kind": made.kind, "attributes": made.attributes}
    store.save_input(made.name, made.digest, made.tokens, made.arrays, attributes, made.texts)


def load_input(store: Store, name: str, digest: str) -> Input:
    """Return an input as it was saved."""
    tokens, arrays, about = store.load_input(name, digest)
    return Input(name, about["kind"], tokens, arrays, about["attributes"])


def _is_done(
    checkpoint: Checkpoint,
    variant: str,
    done: Mapping[int, Commit],
    parameters: Collection[str] | None,
) -> bool:
    """Return whether the store's row for this step and variant is of this checkpoint's weights.

    parameters: those that the measure reads; None for all.
    """
    commit = done.get(checkpoint.step)
    if commit is None:
        return False
    known = checkpoint.digest
    if known is None and parameters is not None:
        known = known_digest_of(checkpoint, parameters)
    return known is not None and commit.fingerprint == fingerprint(variant, known)
