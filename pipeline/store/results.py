"""Results over checkpoints that are stored beside the rows which they follow from.

    aggregates/<name>/<question>-<rows>      one pack, created if absent

`question` is a digest of the name, version, parameters and groups of a result; `rows` is one of the
keys of all rows that readers are shown of these groups. A key names the step, variant and weights
of its row, and the time at which it was planned: a new checkpoint, one that the audit masks, and a
row that was computed again all give another name. So a result is never out of date, only no longer
asked for, and no lease is needed: who writes it twice writes the same.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.errors import InputError
from pipeline.store.commits import Commit, shown
from pipeline.store.fingerprint import digest_of, fingerprint, plain_json, variant_id
from pipeline.store.local_files import PARTIAL
from pipeline.store.objects import Objects
from pipeline.store.packs import Pack, checksum, decode, packed
from pipeline.store.sealed import DamagedError
from pipeline.store.snapshots import Snapshot
from pipeline.store.templates import checked_name
from pipeline.store.trajectories import digest

FOLDER = "aggregates"
_MALFORMED = (KeyError, TypeError, ValueError, RuntimeError)  # what a damaged pack may lead to


@dataclass(frozen=True)
class Question:
    """A question about the rows of some groups; of all where `groups` is None.

    version: of the code that answers. parameters: JSON. InputError for a name that is no key.
    """

    name: str
    version: int
    parameters: Mapping[str, Any]
    groups: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        checked_name(self.name, "result")
        object.__setattr__(self, "parameters", plain_json(self.parameters))
        if self.groups is not None:
            object.__setattr__(self, "groups", tuple(sorted(self.groups)))

    def rows(self, snapshot: Snapshot) -> dict[str, list[Commit]]:
        """Return by group the rows that readers are shown; a group without any is left out."""
        version = snapshot.version
        names = sorted(version.groups) if self.groups is None else self.groups
        found = {
            name: shown(snapshot.of(name), version.current(name) or "", version.masked)
            for name in names
        }
        return {name: rows for name, rows in found.items() if rows}

    def key(self, snapshot: Snapshot) -> str:
        """Return the key of the answer that follows from the rows of a snapshot."""
        rows = {name: digest(rows) for name, rows in self.rows(snapshot).items()}
        return f"{FOLDER}/{self.name}/{fingerprint(variant_id(**asdict(self)), digest_of(rows))}"


def encoded(
    question: Question,
    snapshot: Snapshot,
    description: Mapping[str, Any],
    values: Mapping[str, np.ndarray],
) -> bytes:
    """Return the content of a result. description: JSON that says what the values are."""
    rows = {
        name: {"variant": rows[0].variant, "steps": [row.step for row in rows]}
        for name, rows in question.rows(snapshot).items()
    }
    header = {
        "result": {**asdict(question), "key": question.key(snapshot), "rows": rows},
        "dataset": description,
    }
    return packed(header, values).pack


def opened(key: str, content: bytes) -> Pack:
    """Return the result in an object. Raises DamagedError where it is not what was written."""
    pack = decode(content)
    try:
        found = pack.header["result"]["key"]
    except _MALFORMED:
        raise DamagedError("is not the object of a result") from None
    if found != key:
        raise DamagedError(f"is the object of another result ({found})")
    return pack


def check(key: str, content: bytes) -> None:
    """Compare all that an object of a result holds with its checksums. Raises DamagedError."""
    pack = opened(key, content)
    try:
        for name, wanted in pack.checksums.items():
            if checksum(pack.array(name)) != wanted:
                raise DamagedError(f"{name} is not what was stored")
    except _MALFORMED as error:
        raise DamagedError(str(error)) from error


def keep(objects: Objects, key: str, content: bytes, damaged: bool) -> None:
    """Create the object of a result if absent. damaged: replace the one that is there."""
    if damaged:
        objects.put({key: content})
        return
    with suppress(FileExistsError):  # another process had the same result at the same time
        objects.create(key, content)


def outdated(objects: Objects, snapshot: Snapshot, keys: Collection[str]) -> list[str]:
    """Return, of the keys of all objects, those of results that nobody asks for any more.

    These are of rows that are no longer shown, or of an older version than another result for the
    same question. A damaged one is left to verification.
    """
    found = _questions(objects, sorted(key for key in keys if _is_result(key)))
    newest: dict[str, int] = {}
    for question in found.values():
        newest[_topic(question)] = max(question.version, newest.get(_topic(question), 0))
    return [
        key
        for key, question in found.items()
        if question.version < newest[_topic(question)] or question.key(snapshot) != key
    ]


def _is_result(key: str) -> bool:
    return key.startswith(f"{FOLDER}/") and not key.endswith(PARTIAL)


def _questions(objects: Objects, keys: Sequence[str]) -> dict[str, Question]:
    """Return by key what was asked, of the results that are not damaged."""
    found = {}
    for key in keys:
        with suppress(InputError, *_MALFORMED):
            asked = opened(key, objects.read(key) or b"").header["result"]
            groups = None if asked["groups"] is None else tuple(asked["groups"])
            found[key] = Question(asked["name"], asked["version"], asked["parameters"], groups)
    return found


def _topic(question: Question) -> str:
    return digest_of([question.name, question.parameters, question.groups])
