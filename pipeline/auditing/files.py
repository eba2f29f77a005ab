"""Find files that are empty, truncated or of another format, and tensors that do not fit.

Only headers are read, of a few kilobytes each; from remote storage, one for all files of the same
name and size.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from pipeline.auditing.evidence import Evidence
from pipeline.auditing.faults import Fault
from pipeline.checkpoints.cache import recall, remember
from pipeline.checkpoints.completeness import is_cut_off
from pipeline.checkpoints.contents import StoredSource, format_of_files, read_bytes
from pipeline.checkpoints.floats import QuantisedError, as_trained, quantisation_in
from pipeline.checkpoints.headers import Header, TensorFacts, read_header
from pipeline.checkpoints.metadata import metadata_folder
from pipeline.checkpoints.placeholders import placeholder_of
from pipeline.checkpoints.places import remote_place_of
from pipeline.checkpoints.stored import Folder, Place, StoredFile
from pipeline.errors import CheckpointError, InputError
from pipeline.models.fit import ALL_EMPTY, check_shapes
from pipeline.models.meaning import grouped, meanings_of, usual_group
from pipeline.outside import reading

_START = 2**16  # bytes; most headers are shorter
_WITHOUT_WEIGHTS = 2**20  # bytes; names and shapes of thousands of empty tensors take fewer
_LENGTH = 8  # bytes at the start of a safetensors file that hold the length of its header

Tensors = Mapping[str, TensorFacts]


@dataclass(frozen=True)
class Looked:
    """The result of reading a file's beginning: its header, or the kind and detail of a fault."""

    header: Header | None = None
    kind: str = ""
    detail: str = ""


def file_faults(
    place: Place, evidence: Sequence[Evidence]
) -> tuple[list[Fault], dict[int, Tensors]]:
    """Return the faults of weight files, and the tensors' shapes and dtypes at all other steps.

    Those of pickles are not known, because the whole file would have to be read.
    """
    faults: list[Fault] = []
    tensors: dict[int, Tensors] = {}
    seen: dict[object, Looked] = {}
    shared = _Shared()
    for one in evidence:
        looked = [_look_once(place, one, part, seen) for part in one.parts]
        wrong = [
            Fault(one.step, look.kind, f"{part.name}: {look.detail}")
            for part, look in zip(one.parts, looked, strict=True)
            if look.kind
        ]
        faults += wrong
        headers = [look.header for look in looked if look.header is not None]
        # Tensors of other formats have other names and shapes than the model's.
        is_plain = format_of_files(one.folder.files) is None
        if is_plain and headers and len(headers) == len(one.parts) and not wrong:
            tensors[one.step] = shared.tensors_of(headers)
    return faults, tensors


class _Shared:
    """The tensors of all files of a checkpoint; one object for all checkpoints with the same."""

    def __init__(self) -> None:
        self._by_headers: dict[tuple[int, ...], Tensors] = {}
        self._by_content: dict[object, Tensors] = {}
        self._headers: list[Sequence[Header]] = []  # kept, since an id is of a living object

    def tensors_of(self, headers: Sequence[Header]) -> Tensors:
        """Return the tensors in some headers."""
        key = tuple(map(id, headers))
        if key not in self._by_headers:
            found = {name: facts for header in headers for name, facts in header.tensors.items()}
            content = tuple(sorted(found.items(), key=lambda pair: pair[0]))
            self._by_headers[key] = self._by_content.setdefault(content, found)
            self._headers.append(headers)
        return self._by_headers[key]


def empty_steps(tensors: Mapping[int, Tensors]) -> set[int]:
    """Return the steps whose tensors have no elements, as DeepSpeed ZeRO-3 may save them."""
    return {
        step
        for step, found in tensors.items()
        if found and all(0 in facts.shape for facts in found.values())
    }


def _look_once(place: Place, one: Evidence, part: StoredFile, seen: dict[object, Looked]) -> Looked:
    """Check a file; of remote files of the same name and size, only the first one is read."""
    if not remote_place_of(part.at or one.folder.uri):
        return _look(place, one, part)
    key = part.name, part.size
    if key not in seen:
        seen[key] = _look(place, one, part)
    return seen[key]


def _look(place: Place, one: Evidence, part: StoredFile) -> Looked:
    file = f"{one.folder.uri}/{part.name}"
    try:
        with reading(file, passing=(OSError,)):
            return _looked(place, one, part)
    except (OSError, CheckpointError) as error:
        return Looked(kind="unreadable-file", detail=str(error).removeprefix(f"{file}: "))


def _looked(place: Place, one: Evidence, part: StoredFile) -> Looked:
    if part.size == 0:
        return Looked(kind="empty-file", detail="it has no bytes")
    read = _reader(place, one, part)
    start = read(0, min(part.size, _START))
    if found := placeholder_of(start):
        return Looked(kind="unreadable-file", detail=found)
    if not start.strip(b"\0"):
        return Looked(kind="empty-file", detail="it holds zeros where its header should be")
    if part.name.endswith(".safetensors"):
        return _look_at_header(read, part)
    if part.name.endswith(".json"):  # the config of an adapter, which is read with its weights
        return Looked()
    # torch.save writes a zip file, and before torch 1.6 a bare pickle (opcode PROTO, 0x80).
    if start[:2] != b"PK" and start[:1] != b"\x80":
        return Looked(kind="unreadable-file", detail="it is not what torch.save writes")
    if is_cut_off(place, one.folder, part):
        return Looked(kind="truncated-file", detail="its end is missing")
    if part.size < _WITHOUT_WEIGHTS and _has_empty_tensors(place, one.folder, part.name):
        return Looked(kind="empty-file", detail=f"of its tensors {ALL_EMPTY}")
    return Looked()


def _has_empty_tensors(place: Place, folder: Folder, name: str) -> bool:
    """Return whether a file of torch.save is a dictionary of tensors without elements."""
    try:
        content = StoredSource(place, folder).described(name)
    except CheckpointError:  # said by what reads the weights
        return False
    values = list(content.values()) if isinstance(content, dict) else []
    return bool(values) and all(isinstance(value, Tensor) and not value.numel() for value in values)


def _reader(place: Place, one: Evidence, part: StoredFile) -> Callable[[int, int], bytes]:
    """Return a function that reads parts of a file; the beginning of a remote one is cached."""
    read = partial(read_bytes, place, one.folder, part.name)
    is_local = place.ATOMIC_UNIT == "byte"
    if part.identity is None and not is_local:
        return read
    beginning = None if is_local else recall("beginnings", str(part.identity))
    if beginning is None:
        beginning = read(0, _START) if is_local else _beginning(read, part)
        if not is_local:
            remember("beginnings", str(part.identity), beginning)
    return lambda start, stop: beginning[start:stop] if stop <= _START else read(start, stop)


def _beginning(read: Callable[[int, int], bytes], part: StoredFile) -> bytes:
    """Return the first bytes of a file: of safetensors the header only, without tensors."""
    if not part.name.endswith(".safetensors"):
        return read(0, _START)
    length = read(0, _LENGTH)
    stop = min(_LENGTH + int.from_bytes(length, "little"), _START)
    return length + (read(_LENGTH, stop) if stop > _LENGTH else b"")


def _look_at_header(read: Callable[[int, int], bytes], part: StoredFile) -> Looked:
    try:
        header = read_header(read, part.size)
    except EOFError as error:
        return Looked(kind="truncated-file", detail=str(error))
    except ValueError as error:
        return Looked(kind="unreadable-file", detail=str(error))
    if part.size < header.size:
        detail = f"it has {part.size} bytes, by its header {header.size}"
        return Looked(kind="truncated-file", detail=detail)
    if part.size > header.size:
        detail = f"it has {part.size} bytes, {part.size - header.size} more than by its header"
        return Looked(kind="unreadable-file", detail=detail)
    return Looked(header)


def config_faults(evidence: Sequence[Evidence], tensors: Mapping[int, Tensors]) -> list[Fault]:
    """Return faults of tensors that do not fit their config, and of configs unlike the others."""
    configured = [(one, one.config) for one in evidence if one.config is not None]
    distinct = {id(config): config for _, config in configured}
    trained = {key: as_trained(config) for key, config in distinct.items()}
    quantised = {key: _quantised(config) for key, config in distinct.items()}
    meanings = meanings_of([trained[id(config)] for _, config in configured])
    groups = grouped(meanings)
    usual = usual_group(meanings, groups) if groups else 0
    checked: dict[object, tuple[str, str]] = {}
    faults = []
    for (one, config), meaning, group in zip(configured, meanings, groups, strict=True):
        kind, wrong = "quantised", quantised[id(config)]
        if one.step in tensors:
            key = id(config), id(tensors[one.step])  # equal ones are shared
            if key not in checked:
                checked[key] = _misfit(one, tensors[one.step])
            kind, wrong = checked[key]
        if wrong:
            faults.append(Fault(one.step, kind, wrong))
        elif group != usual:
            difference = meaning.difference(meanings[groups.index(usual)])
            faults.append(Fault(one.step, "other-config", f"config.json has {difference}"))
    return faults


def _misfit(one: Evidence, tensors: Tensors) -> tuple[str, str]:
    """Return the kind of fault and the reason that these tensors do not fit; "" if they fit."""
    shapes = {name: facts.shape for name, facts in tensors.items()}
    dtypes = {name: facts.dtype for name, facts in tensors.items()}
    try:
        folder = metadata_folder(one.folder)
        with reading(f"{one.folder.uri}/config.json", passing=()):
            check_shapes(folder, shapes, "the checkpoint", dtypes, one.config)
    except QuantisedError as error:
        return "quantised", str(error)
    except CheckpointError as error:
        return "shape-mismatch", str(error)
    except InputError:
        pass  # no model that can be built here: nothing is known of its tensors
    return "quantised", _quantised(one.config or {})


def _quantised(config: Mapping[str, Any]) -> str:
    said = quantisation_in(config)
    return f"config.json says {said}: give the unquantised checkpoint" if said else ""
