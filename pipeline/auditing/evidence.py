"""Collect the metadata of each checkpoint of a run, without reading weights.

From the Hub: one request for all refs, one per commit, and one per distinct config. On a local
disk, which has no digests of files, samples of their bytes are compared instead.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.auditing.faults import Fault
from pipeline.checkpoints.configs import config_of
from pipeline.checkpoints.digests import sha256_of
from pipeline.checkpoints.files import REFUSAL
from pipeline.checkpoints.listing import Found
from pipeline.checkpoints.places import remote_place_of
from pipeline.checkpoints.side_by_side import side_by_side
from pipeline.checkpoints.stored import Folder, Place, StoredFile
from pipeline.checkpoints.weight_files import part_names
from pipeline.errors import CheckpointError, InputError
from pipeline.outside import opened, reading

# Samples are spread over the file, because training changes all of it; 16 pages are read in
# milliseconds. Equal samples lead to a comparison of the whole files.
_SAMPLES = 16
_SAMPLE = 4096  # bytes


@dataclass(frozen=True)
class Evidence:
    """The metadata of one checkpoint: its config (None if unreadable), the files of its weights
    (empty if one is missing), and the faults of both.

    Files of a run have the same identity if their bytes are the same; None: unknown.
    """

    step: int
    folder: Folder
    config: Mapping[str, Any] | None
    parts: tuple[StoredFile, ...]
    faults: tuple[Fault, ...] = ()

    @property
    def identity(self) -> tuple[str | None, ...]:
        """The identities of all files, equal for checkpoints with the same bytes."""
        return tuple(part.identity for part in self.parts)


def gather(place: Place, found: Sequence[Found]) -> list[Evidence]:
    """Return the evidence of each checkpoint, in order."""
    evidence = side_by_side(lambda one: _of(place, one.step, one.folder), found)
    return _identified_on_disk(_with_equal_configs_shared(evidence))


def _with_equal_configs_shared(evidence: Sequence[Evidence]) -> list[Evidence]:
    """Let checkpoints with equal configs, in the same order of keys, share one object."""
    known: dict[str, Mapping[str, Any]] = {}
    return [
        one
        if one.config is None
        else replace(one, config=known.setdefault(repr(one.config), one.config))
        for one in evidence
    ]


def _of(place: Place, step: int, folder: Folder) -> Evidence:
    faults = []
    config = None
    try:
        with reading(f"{folder.uri}/config.json", InputError):
            config = config_of(place, folder)
    except InputError as error:
        absent = "config.json" not in folder.files
        kind = "missing-file" if absent else "unreadable-file"
        faults.append(Fault(step, kind, str(error)))
    parts, wrong = _parts(place, step, folder)
    return Evidence(step, folder, config, parts, (*faults, *wrong))


def _parts(
    place: Place, step: int, folder: Folder
) -> tuple[tuple[StoredFile, ...], tuple[Fault, ...]]:
    try:
        with reading(folder.uri):
            main, names = part_names(place, folder)
    except CheckpointError as error:
        has_file = any(name.endswith((".index.json", REFUSAL)) for name in folder.files)
        kind = "unreadable-file" if has_file else "missing-file"
        return (), (Fault(step, kind, str(error)),)
    absent = [name for name in names if name not in folder.files]
    if absent:
        detail = f"{folder.uri}: {', '.join(absent)} is missing, though {main} names it"
        return (), (Fault(step, "missing-file", detail),)
    return tuple(folder.files[name] for name in names), ()


def _identified_on_disk(evidence: list[Evidence]) -> list[Evidence]:
    """Give files on disk an identity: that of samples, or their sha256 if samples are equal."""
    samples = {
        (one.step, part.name): _samples(_path(one, part), part.size)
        for one in evidence
        for part in one.parts
        if not remote_place_of(part.at or one.folder.uri)
    }
    counts = Counter(samples.values())

    def identified(one: Evidence, part: StoredFile) -> StoredFile:
        if (one.step, part.name) not in samples:
            return part
        sample = samples[one.step, part.name]
        if sample and counts[sample] > 1:
            sample = _summed(_path(one, part))
        return replace(part, identity=sample)

    return [
        replace(one, parts=tuple(identified(one, part) for part in one.parts)) for one in evidence
    ]


def _path(one: Evidence, part: StoredFile) -> str:
    return f"{part.at or one.folder.uri}/{part.name_there}"


def _summed(file: str) -> str | None:
    """Return the sha256 of a file; None if it is being written or was removed."""
    try:
        return sha256_of(Path(file))
    except (CheckpointError, OSError):
        return None


def _samples(file: str, size: int) -> str | None:
    """Return a digest of a file's size and samples of its bytes; None if it cannot be read.

    Of a file that is not larger than all samples together, it is a digest of the whole content.
    """
    digest = hashlib.sha256(f"samples {size}".encode())
    try:
        with opened(file, CheckpointError) as stream:
            if size <= _SAMPLES * _SAMPLE:
                digest.update(stream.read())
                return digest.hexdigest()
            last = size - _SAMPLE
            for number in range(_SAMPLES):  # from the first to the last bytes, evenly
                stream.seek(last * number // (_SAMPLES - 1))
                digest.update(stream.read(_SAMPLE))
    except (CheckpointError, OSError):
        return None
    return digest.hexdigest()
