"""Audit a run's checkpoints: find missing, damaged and mislabelled ones."""

from bisect import bisect
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.auditing.copies import copies
from pipeline.auditing.deep import deep_faults
from pipeline.auditing.evidence import gather
from pipeline.auditing.faults import KINDS, Audit, Fault
from pipeline.auditing.files import config_faults, empty_steps, file_faults
from pipeline.auditing.schedule import missing_steps
from pipeline.checkpoints.listing import Finished, finished_in
from pipeline.config import RunLayout, saved_model
from pipeline.progress import Progress

__all__ = ["KINDS", "Audit", "Fault", "audit", "audit_found"]


def audit(
    uri: str,
    deep: bool = False,
    progress: Progress = lambda done, total, what: None,
    model: Mapping[str, Any] | None = None,
    layout: RunLayout | None = None,
    tokens_per_step: int | None = None,
) -> Audit:
    """Return the faults of every kind in `KINDS` among the checkpoints of a run.

    Reads metadata only, unless `deep`: names, sizes, digests that the storage knows, configs,
    headers. deep: read all weights once (their sketches are cached by digest);
    progress(done, total, what) is called after each checkpoint. model: config fields that `.pth`
    files lack, see `pipeline.config.SavedModel`. layout: see `pipeline.config.RunLayout`.
    tokens_per_step: gives the steps of names that give tokens. Raises InputError if there is no
    run.
    """
    found = finished_in(uri, layout, saved_model(model), tokens_per_step)
    return audit_found(uri, found, deep, progress)


def audit_found(
    uri: str,
    listed: Finished,
    deep: bool = False,
    progress: Progress = lambda done, total, what: None,
) -> Audit:
    """Audit a run that is listed already; changes since the listing are not seen."""
    evidence = gather(listed.place, listed.found)
    in_files, tensors = file_faults(listed.place, evidence)
    empty = empty_steps(tensors) | {one.step for one in in_files if one.kind == "empty-file"}
    faults = [
        *(fault for one in evidence for fault in one.faults),
        *in_files,
        *config_faults(evidence, tensors),
        # Empty files are equal, but hold no weights that one of them could have from another.
        *copies([one for one in evidence if one.step not in empty]),
        *_schedule_faults([one.step for one in evidence]),
    ]
    if deep:
        unreadable = {fault.step for fault in in_files}
        readable = [one for one in evidence if one.parts and one.step not in unreadable]
        faults = deep_faults(readable, faults, progress)
    found = tuple(sorted(set(faults)))
    return Audit(uri, len(evidence), found, deep, listed.left_out, listed.notes)


def _schedule_faults(steps: Sequence[int]) -> list[Fault]:
    found = []
    for missing in missing_steps(steps):
        after = bisect(steps, missing)
        between = f"absent between {steps[after - 1]} and {steps[after]}"
        found.append(Fault(missing, "missing-step", f"{between}, where the schedule has it"))
    return found
