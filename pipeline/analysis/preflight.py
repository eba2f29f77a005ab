"""The preflight of an analysis: everything that can be refused, in one list, before it computes.

`analyze`, the flow, `--dry-run` and `ontogeny doctor` use this one list. Nothing is written but a
probe of the store's place, which is removed again.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.filesize import decimal

from pipeline.analysis.examination import examine, read_groups
from pipeline.analysis.faults import Fault, Faults
from pipeline.analysis.inputs import save_input
from pipeline.analysis.job import Prepared
from pipeline.analysis.machine import machine_faults
from pipeline.analysis.same_run import check_same_run
from pipeline.analysis.survey import Survey, survey
from pipeline.analysis.weights import weight_bytes
from pipeline.auditing import audit
from pipeline.auditing.faults import UNREADABLE
from pipeline.checkpoints.metadata import metadata_folder
from pipeline.checkpoints.places import listed_folder, remote_place_of
from pipeline.checkpoints.trainer_log import read_trainer_log
from pipeline.config import Analysis
from pipeline.errors import CheckpointError, InputError
from pipeline.models.architecture import without_memory
from pipeline.models.forward_dtype import refuse_dtype
from pipeline.store import Store
from pipeline.store.lease import require_free
from pipeline.store.probe import existing, probe_place
from pipeline.store.trainer_log import keep_trainer_log

# The faults of the place where an analysis is to be computed; this process's machine by default.
FaultsOf = Callable[[Analysis], Iterable[Fault]]

_LEAST_FREE = 16 * 2**20  # bytes; with less, not even the store of a small run fits


@dataclass(frozen=True)
class Preflight:
    """The result of trying an analysis.

    faults: everything that the analysis would refuse. surveyed: None where the run cannot be
    listed. prepared: without the groups that have a fault; None where none is left. failed: the
    steps that cannot be computed though the analysis is sound, with the reasons.
    """

    faults: Faults
    surveyed: Survey | None
    prepared: Prepared | None
    failed: Mapping[int, str]


def preflight(analysis: Analysis, faults_of: FaultsOf = machine_faults) -> Preflight:
    """Find all faults of an analysis. Reads no weights: a deep audit is left out."""
    faults = Faults()
    surveyed = None
    quick = {"audit": "metadata"} if analysis.audit == "deep" else {}
    with faults.gathered("checkpoints"):
        surveyed = survey(analysis.model_copy(update=quick))
    prepared = _examine_all(analysis, surveyed, faults, faults_of, reading=False)
    failed: dict[int, str] = {}
    if surveyed is not None:
        with faults.gathered("checkpoints"):
            failed = _unreadable(analysis, surveyed)
    failed |= prepared.failed if prepared else {}
    return Preflight(faults, surveyed, prepared, dict(sorted(failed.items())))


def _unreadable(analysis: Analysis, surveyed: Survey) -> dict[int, str]:
    """Return the steps to compute whose weight files cannot be read, by their headers, and why."""
    verdict = surveyed.verdict or audit(
        analysis.checkpoints,
        model=analysis.model,
        layout=analysis,
        tokens_per_step=analysis.tokens_per_step,
    )
    chosen = {one.step for one in surveyed.checkpoints}
    return {
        fault.step: f"step {fault.step}: {fault.kind}: {fault.detail}"
        for fault in verdict.faults
        if fault.kind in UNREADABLE and fault.step in chosen
    }


def refuse_at_once(analyses: Sequence[Analysis], faults_of: FaultsOf = machine_faults) -> None:
    """Raise RefusedError, with all faults of some analyses, before the first one begins.

    A single analysis is tried only where it has a fault that is known before its run is listed: it
    tries everything itself, but servers that are started before that take long.
    """
    if len(analyses) == 1 and not _known_at_once(analyses[0], faults_of):
        return
    faults = Faults()
    for analysis in analyses:
        faults.extend(preflight(analysis, faults_of).faults)
    faults.refuse()


def _known_at_once(analysis: Analysis, faults_of: FaultsOf) -> bool:
    faults = Faults()
    read_groups(analysis, faults)
    faults.add(*faults_of(analysis))
    _check_place(analysis, None, faults)
    return bool(faults.found)


def survey_or_refuse(analysis: Analysis, faults_of: FaultsOf = machine_faults) -> Survey:
    """Survey a run. Where that is refused, raises RefusedError with all other faults as well."""
    faults = Faults()
    with faults.gathered("checkpoints"):
        return survey(analysis)
    _examine_all(analysis, None, faults, faults_of)
    faults.refuse()
    raise AssertionError("a survey that failed is a fault")


def prepare(analysis: Analysis, surveyed: Survey, faults_of: FaultsOf = machine_faults) -> Prepared:
    """Make the inputs and the store, and save the verdict in it.

    Raises RefusedError with all faults, and nothing is written then.
    """
    faults = Faults()
    prepared = _examine_all(analysis, surveyed, faults, faults_of)
    faults.refuse()
    assert prepared is not None, "nothing is prepared only where there is a fault"
    store = prepared.job.store
    store.create_or_open({"architecture": prepared.architecture}, analysis.checkpoints)
    for made in prepared.inputs.values():
        save_input(store, made)
    store.set_verdict(surveyed.verdict and surveyed.verdict.as_json(), surveyed.masked)
    return replace(prepared, notes=(*prepared.notes, *_keep_trainer_log(store, surveyed)))


def _keep_trainer_log(store: Store, surveyed: Survey) -> Iterator[str]:
    """Keep the Trainer's log of the last checkpoint, if it has one; yield why it cannot be read."""
    # Also of one that is not selected: its log is the longest.
    last = [one for one in surveyed.listed if one.step not in surveyed.masked][-1]
    try:
        if (log := read_trainer_log(last)) is not None:
            keep_trainer_log(store.objects, log)
    except CheckpointError as error:
        yield f"the Trainer's log is left out: {error}"


def _examine_all(
    analysis: Analysis,
    surveyed: Survey | None,
    faults: Faults,
    faults_of: FaultsOf,
    reading: bool = True,
) -> Prepared | None:
    """Add all faults that are found; return what can be prepared. reading: see `_check_place`."""
    prepared = None
    if surveyed is None:
        read_groups(analysis, faults)
    else:
        prepared = examine(analysis, surveyed, faults)
    if prepared is not None:
        faults.add(*_cache_limit(prepared))
        with faults.gathered("workers"):
            _check_dtype(prepared)
    _check_place(analysis, prepared, faults, reading)
    faults.add(*faults_of(analysis))
    return prepared


def _check_place(
    analysis: Analysis, prepared: Prepared | None, faults: Faults, reading: bool = True
) -> None:
    """Add the faults of the store's place.

    reading: whether weights on this machine may be read to tell whether a run at another address is
    the store's.
    """
    own = Faults()
    with own.gathered("store"):
        store = Store(analysis.store)
        if store.require_place() is not None:
            if prepared is not None:
                chosen, reads_all = prepared.checkpoints, None in prepared.weights_read.values()
                check_same_run(store, analysis.checkpoints, chosen, reading and reads_all)
                store.require_place({"architecture": prepared.architecture})
            require_free(store)
        # Only where nothing else is wrong: a place that is not the right one need not be tried.
        probe_place(store.objects)
        _require_space(store)
    faults.extend(own)


def _require_space(store: Store) -> None:
    if not store.objects.is_local:
        return
    folder = existing(Path(store.uri))
    free = shutil.disk_usage(folder).free
    if free < _LEAST_FREE:
        raise InputError(
            f"{folder}: {decimal(free)} are free, expected at least {decimal(_LEAST_FREE)}: free "
            "some space, or choose another place for the store"
        )


def _check_dtype(prepared: Prepared) -> None:
    """Raise InputError if the model's recurrent layers do not compute in the dtype of a pass."""
    job, dtype = prepared.job, prepared.job.analysis.workers.dtype
    settings = ((one.measure, prepared.settings[one.name]) for one in job.groups)
    in_passes = {
        measure.computed_in(setting, dtype)
        for measure, setting in settings
        if measure.passes(setting) and setting.model.without_attention
    }
    if dtype == "float32" or dtype not in in_passes:
        return
    trusted = job.analysis.trust_remote_code
    folder = metadata_folder(listed_folder(job.architecture), code=trusted)
    refuse_dtype(without_memory(folder, trusted), dtype)


def _cache_limit(prepared: Prepared) -> Iterable[Fault]:
    """Yield a fault where `cache.bytes` is too small for a checkpoint that has to be fetched."""
    analysis = prepared.job.analysis
    most = analysis.cache.bytes
    if most is None:
        return
    if None not in prepared.weights_read.values():  # tensors are read into memory, by ranges
        return
    remote = [one for one in prepared.checkpoints if remote_place_of(one.uri) is not None]
    sizes = dict(zip(remote, weight_bytes(remote), strict=True))
    if too_large := [one for one, size in sizes.items() if size > most]:
        first = too_large[0]
        yield Fault(
            "cache",
            f"cache.bytes: {most} bytes are allowed, but the weights of step {first.step} have "
            f"{sizes[first]} (and {len(too_large) - 1} more such steps): raise it",
        )
