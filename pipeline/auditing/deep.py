"""Find faults that only the weights show: NaN, weights of another step, weights of another run."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float

from pipeline.auditing.evidence import Evidence
from pipeline.auditing.faults import Fault
from pipeline.auditing.sketches import Sketch, sketch_of
from pipeline.auditing.trend import Outlier, distances_between, off_trend
from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.fetch import Copies
from pipeline.checkpoints.floats import QuantisedError
from pipeline.checkpoints.places import remote_place_of
from pipeline.errors import CheckpointError
from pipeline.outside import reading
from pipeline.progress import Progress

Outliers = Sequence[Outlier]

_LARGE = 10**9  # bytes of a checkpoint that is not read if its tensors are not its config's
_MOST_TIMES = 16  # the median size of a run's checkpoints

_COPIES = ("byte-identical", "final-weights", "foreign-shard")


def deep_faults(
    evidence: Sequence[Evidence], faults: Sequence[Fault], progress: Progress
) -> list[Fault]:
    """Return all faults: those found in the metadata, corrected and completed by the weights.

    evidence: of all checkpoints whose weights can be read. faults: found in the metadata.
    """
    misfits = {fault.step for fault in faults if fault.kind == "shape-mismatch"}
    readable = [one for one in evidence if one.step not in misfits or _size(one) < _LARGE]
    sketches, unreadable = _sketches(readable, progress)
    told = {(fault.step, fault.kind) for fault in faults}
    unreadable = [fault for fault in unreadable if (fault.step, fault.kind) not in told]
    known = [*faults, *unreadable, *_bad_numbers(sketches)]
    return _with_trend(known, sketches)


def _sketches(
    evidence: Sequence[Evidence], progress: Progress
) -> tuple[dict[int, Sketch], list[Fault]]:
    sketches: dict[int, Sketch] = {}
    unreadable = []
    copies = Copies(largest=_largest(evidence))
    with ThreadPoolExecutor(2) as threads:  # one checkpoint is fetched while another is sketched
        results = threads.map(lambda one: _attempt(one, copies), evidence)
        for done, (one, result) in enumerate(zip(evidence, results, strict=True), start=1):
            progress(done, len(evidence), f"step {one.step}")
            if isinstance(result, Fault):
                unreadable.append(result)
            else:
                sketches[one.step] = result
    return sketches, unreadable


def _largest(evidence: Sequence[Evidence]) -> int:
    """Return the most bytes of a checkpoint that is read, from the sizes of all of a run.

    Without a config no other bound is known; a file of any length may have a sound header.
    """
    sizes = sorted(map(_size, evidence))
    return _MOST_TIMES * sizes[(len(sizes) - 1) // 2] if sizes else 0


def _size(one: Evidence) -> int:
    return sum(part.size for part in one.parts)


def _attempt(one: Evidence, copies: Copies) -> Sketch | Fault:
    # Errors of a remote place concern the whole audit; of files on this machine, one checkpoint.
    passing = (OSError,) if remote_place_of(one.folder.uri) else ()
    try:
        with reading(one.folder.uri, passing=passing):
            return sketch_of(Checkpoint(one.step, one.folder.uri, files=one.folder.files), copies)
    except QuantisedError as error:
        return Fault(one.step, "quantised", str(error))
    except CheckpointError as error:
        return Fault(one.step, "unreadable-file", str(error))


def _bad_numbers(sketches: Mapping[int, Sketch]) -> list[Fault]:
    faults: list[Fault] = []
    alive: set[str] = set()
    for step, sketch in sorted(sketches.items()):
        if sketch.non_finite:
            faults.append(Fault(step, "non-finite", sketch.non_finite))
        # A matrix may be initialised with zeros, but training does not return it to them.
        if dead := [name for name in sketch.zeros if name in alive]:
            faults.append(Fault(step, "empty-file", f"only zeros: {_named(dead)}"))
        alive |= set(sketch.alive)
    return faults


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _with_trend(faults: Sequence[Fault], sketches: Mapping[int, Sketch]) -> list[Fault]:
    """Add the faults that distances between checkpoints show, and remove those they disprove."""
    passed = {f.step for f in faults if f.kind in ("non-finite", "empty-file")}
    disguised = {f.step for f in faults if f.kind == "final-weights"}
    # Several copies of the last step would make the run appear to stand still, and thus hide
    # further faults. A single one is left to the trend, which may disprove it.
    if len(disguised) > 1:
        passed |= disguised
    usable = _of_one_layout({s: sketch for s, sketch in sketches.items() if s not in passed})
    moving = _moving_parts(usable)
    if not moving:
        return list(faults)
    points = {part: np.stack([s.parts[part] for s in usable.values()]) for part in moving}
    in_parts = {part: _outliers(list(usable), kept) for part, kept in points.items()}
    in_all = _outliers(list(usable), np.concatenate(list(points.values()), axis=1))
    kept = [f for f in faults if f.kind not in _COPIES or f.step not in _cleared(in_all, in_parts)]
    known = {f.step for f in kept if f.kind in _COPIES}
    shown = _faults_of(in_all, in_parts, last=max(sketches))
    return kept + [fault for fault in shown if fault.step not in known]


def _of_one_layout(sketches: Mapping[int, Sketch]) -> dict[int, Sketch]:
    """Return the sketches with the most common files and numbers of elements."""
    layouts: dict[int, tuple] = {
        step: tuple((part, len(kept)) for part, kept in sketch.parts.items())
        for step, sketch in sorted(sketches.items())
    }
    commonest = Counter(layouts.values()).most_common(1)
    return {s: sketches[s] for s, layout in layouts.items() if layout == commonest[0][0]}


def _moving_parts(sketches: Mapping[int, Sketch]) -> list[str]:
    """Return the files that differ between steps; those of frozen weights do not."""
    if not sketches:
        return []
    first, *others = sketches.values()
    return [
        part
        for part, kept in first.parts.items()
        if any(not np.array_equal(kept, other.parts[part]) for other in others)
    ]


def _outliers(
    steps: Sequence[int], points: Float[np.ndarray, "checkpoint element"]
) -> list[Outlier]:
    norms = np.linalg.norm(points.astype(np.float64), axis=1)
    return off_trend(steps, distances_between(points), norms.tolist())


def _cleared(in_all: Outliers, in_parts: Mapping[str, Outliers]) -> set[int]:
    """Return the steps whose weights were copied to other steps and are right at their own."""
    outliers = [*in_all, *(outlier for found in in_parts.values() for outlier in found)]
    originals = {outlier.of for outlier in outliers if outlier.of is not None}
    return originals - {outlier.step for outlier in outliers}


def _faults_of(in_all: Outliers, in_parts: Mapping[str, Outliers], last: int) -> list[Fault]:
    """Return one fault for a step that is wrong as a whole or in most files, else one per file.

    (A single wrong file of two is foreign; the only file of a checkpoint is the whole.)
    """
    whole = {outlier.step: outlier for outlier in in_all}
    wrong: dict[int, dict[str, Outlier]] = defaultdict(dict)
    for part, outliers in in_parts.items():
        for outlier in outliers:
            wrong[outlier.step][part] = outlier
    faults = []
    for step in sorted(whole.keys() | wrong.keys()):
        found = whole.get(step)
        if found and (found.kind == "near" or len(wrong[step]) > len(in_parts) / 2):
            faults.append(_whole(found, last))
        else:
            faults += [_foreign(part, outlier) for part, outlier in wrong[step].items()]
    return faults


def _whole(outlier: Outlier, last: int) -> Fault:
    if outlier.kind == "start":
        detail = "as far from the next step as weights of another seed, which then move little"
        return Fault(outlier.step, "unrelated-start", detail)
    if outlier.kind == "off":
        detail = "far from the steps before and after it, which are near each other"
        return Fault(outlier.step, "off-trend", detail)
    kind = "final-weights" if outlier.of == last else "near-duplicate"
    return Fault(outlier.step, kind, f"the weights of step {outlier.of}, nearly")


def _foreign(part: str, outlier: Outlier) -> Fault:
    of = "elsewhere" if outlier.of is None else f"step {outlier.of}"
    return Fault(outlier.step, "foreign-shard", f"{part} holds weights of {of}")
