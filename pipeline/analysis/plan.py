"""The plan of an analysis: the rows that its store lacks."""

import inspect
from collections.abc import Collection, Mapping
from dataclasses import replace

from pipeline.analysis.job import Cell, Group, Plan, Prepared, reference_key, variant_of
from pipeline.analysis.parts import known_digest_of
from pipeline.checkpoints import Checkpoint
from pipeline.checkpoints.places import files_elsewhere
from pipeline.measures import apply
from pipeline.measures.base import Reference
from pipeline.store.commits import Commit, latest
from pipeline.store.fingerprint import fingerprint
from pipeline.store.templates import Template


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
