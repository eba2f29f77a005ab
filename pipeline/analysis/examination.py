"""Examine an analysis: everything that can be refused before any weights are read."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipeline.analysis.architecture import Architecture, architecture_of
from pipeline.analysis.faults import Faults
from pipeline.analysis.inputs import STANDARD_INPUTS, make_input
from pipeline.analysis.job import Group, Job, Prepared, setting_of
from pipeline.analysis.survey import Survey
from pipeline.checkpoints import Checkpoint
from pipeline.checkpoints.configs import assumed_of_model
from pipeline.checkpoints.foreign import conversion_notes
from pipeline.checkpoints.metadata import metadata_folder
from pipeline.checkpoints.places import listed_folder, place_of
from pipeline.checkpoints.stored import Folder
from pipeline.config import Analysis, GroupOptions, together, validated
from pipeline.engine.form import unmet_assumptions
from pipeline.errors import InputError, suggestion
from pipeline.inputs import Input
from pipeline.measures import apply, measure_class
from pipeline.measures.base import Measure, Setting
from pipeline.measures.names import split_key
from pipeline.models.facts import ModelFacts, facts_of
from pipeline.outside import reading
from pipeline.store import Store
from pipeline.store.templates import check_half

_SMALL_MODEL = 10**9  # numbers, which every machine can hold


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
    of_model = (*assumed_of_model(place_of(source.uri), source), *facts.notes)
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
