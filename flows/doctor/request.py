"""Checks of one analysis: everything that its run would refuse, found in the same way."""

from collections.abc import Iterator

from flows.doctor.check import Check, call_within, reason
from flows.preflight import run_faults
from pipeline.analysis.job import Prepared
from pipeline.analysis.machine import device_faults, product_fault
from pipeline.analysis.preflight import Preflight, preflight
from pipeline.checkpoints.left_out import in_short
from pipeline.config import Analysis

SECONDS = 600.0  # listing and auditing a long run at a distance takes minutes


def check_request(analysis: Analysis) -> list[Check]:
    """Check all parts of an analysis; those that depend on a part with a fault are left out."""
    try:
        tried = call_within(SECONDS, lambda: _tried(analysis))
    except Exception as error:
        return [Check("analysis", False, reason(error))]
    faults = tried.faults.found
    failed = [Check(fault.about, False, fault.message, of_request=True) for fault in faults]
    wrong = {fault.about.partition(".")[0] for fault in faults}
    sound = [one for one in _sound(analysis, tried) if one.name not in wrong]
    return [*sound, *failed, *_steps(tried)]


def _tried(analysis: Analysis) -> Preflight:
    tried = preflight(analysis, run_faults)
    # On a cluster the workers may have a device that this machine lacks.
    if not list(device_faults(analysis.workers)) and (fault := product_fault(analysis.workers)):
        tried.faults.add(fault)
    return tried


def _sound(analysis: Analysis, tried: Preflight) -> Iterator[Check]:
    """Yield what was tried of each part, as if nothing were wrong with it."""
    if surveyed := tried.surveyed:
        found = f"{len(surveyed.listed)} listed{in_short(surveyed.left_out)}"
        yield Check("checkpoints", True, f"{analysis.checkpoints}: {found}")
    yield Check("device", True, f"{analysis.workers.device}, {analysis.workers.dtype}")
    if prepared := tried.prepared:
        yield Check("inputs", True, _shapes(prepared))
        yield Check("measures", True, ", ".join(group.name for group in prepared.job.groups))
    said = "creates an object only once, lists, reads and deletes it"
    yield Check("store", True, f"{analysis.store}: {said}")


def _shapes(prepared: Prepared) -> str:
    shapes = {name: made.tokens.shape for name, made in prepared.inputs.items()}
    said = [f"{name} ({rows} x {length} tokens)" for name, (rows, length) in shapes.items()]
    return ", ".join(said) or "none is read"


def _steps(tried: Preflight) -> Iterator[Check]:
    """Yield a check of the steps that cannot be computed, though the others can."""
    if tried.surveyed and (failed := tried.failed):
        count = len(tried.surveyed.checkpoints)
        first = failed[min(failed)]
        message = f"{len(failed)} of {count} cannot be computed, the first because of {first}"
        yield Check("checkpoints", False, message)
