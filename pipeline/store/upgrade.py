"""Moving a store of layout 1 to the present layout: nothing is computed."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.errors import InputError, first_line
from pipeline.outside import parsed_json
from pipeline.store import layout1
from pipeline.store.commits import Commit, fresh_id
from pipeline.store.layout1 import OldStore
from pipeline.store.non_finite import keep_row, keep_weights
from pipeline.store.packs import encode
from pipeline.store.probe import probe
from pipeline.store.sealed import seal
from pipeline.store.store import REFERENCES, Store
from pipeline.store.trajectories import publish
from pipeline.store.versions import Version
from pipeline.store.zarr_groups import ROOT


@dataclass(frozen=True)
class Upgraded:
    """The number of rows that were moved, and those that could not be, with the reasons."""

    rows: int
    left_out: dict[str, str]


def upgrade(
    store: Store, progress: Callable[[int, int, str], None] = lambda done, total, what: None
) -> Upgraded:
    """Move all rows that stand to the present layout, and remove what is left of the former one.

    The first version is made when all rows are there: killed before, the store is what it was, and
    may be upgraded again. A row that is damaged is left out, so that the next analysis computes
    it. InputError where there is no store of layout 1. Nothing else may write to the store.
    """
    objects = store.objects
    if store.versions.newest_number() == 0:
        if not layout1.is_old(objects):
            raise InputError(f"{store.uri}: there is no store here: give one to upgrade")
        probe(objects)
        old = OldStore(store.uri)
        moved, left_out = _move(store, old, progress)
        _move_references(store)
        _move_non_finite(store, old)
        objects.put({"zarr.json": json.dumps(ROOT).encode()})
        store.versions.create(_first_version(old, moved))
    elif layout1.is_old(objects):  # killed while it removed the former layout
        moved, left_out = list(store.version().rows), {}
    else:
        raise InputError(f"{store.uri}: the store has the present layout already")
    publish(store)
    for folder in layout1.FOLDERS:
        objects.delete(folder)
    return Upgraded(len(moved), left_out)


def _move(
    store: Store, old: OldStore, progress: Callable[[int, int, str], None]
) -> tuple[list[Commit], dict[str, str]]:
    moved, left_out = [], {}
    commits = list(layout1.rows_of(old))
    for done, commit in enumerate(commits, start=1):
        try:
            row, values = old.row(commit)
            rounding = old.marker(commit).get("rounding", {})
        except (InputError, ValueError, KeyError, TypeError, RuntimeError) as error:
            left_out[f"{commit.group} at step {commit.step}"] = first_line(error)
            continue
        made = encode(row, values, rounding)
        new = Commit(commit.group, commit.step, 1, fresh_id(), commit.fingerprint, generation=1)
        if made.large:
            store.objects.put({new.large_key(name): part for name, part in made.large.items()})
        store.objects.put({new.key: made.pack})
        moved.append(new)
        progress(done, len(commits), f"{commit.group} at step {commit.step}")
    return moved, left_out


def _move_references(store: Store) -> None:
    for key in store.objects.list(REFERENCES):
        content = store.objects.read(key) or b""
        if content.count(b"\n") == 0:  # else it was moved before the last upgrade was killed
            said = _opened(content)
            if said is None:  # the next analysis computes it anew
                store.objects.delete(key)
            else:
                store.objects.put({key: seal(said)})


def _move_non_finite(store: Store, old: OldStore) -> None:
    objects, folder = store.objects, "_non_finite"
    for key in objects.list(f"{folder}/weights"):
        content = (objects.read(key) or b"").decode(errors="replace")
        if "\n" not in content:
            keep_weights(store, key.rpartition("/")[2], content)
    for commit in old.commits:
        key = commit.key.replace("_commits", f"{folder}/rows", 1)
        if isinstance(counts := _opened(objects.read(key)), dict):
            keep_row(store, commit.group, commit.fingerprint, counts)
            objects.delete(key)


def _first_version(old: OldStore, rows: list[Commit]) -> Version:
    verdict = _opened(old.objects.read("_audit.json"))  # the next analysis audits anew
    identity = old.identity
    address = identity.pop("checkpoints", "")
    return Version(
        identity,
        address=address,
        open=2,
        groups=old.groups,
        rows=tuple(sorted(rows)),
        verdict=verdict if isinstance(verdict, dict) else None,
        masked=old.steps("masked"),
        not_finite=old.steps("not_finite"),
    )


def _opened(content: bytes | None) -> Any:
    """Return what an object of layout 1 says; None where it is absent or damaged."""
    try:
        return parsed_json(content or b"", finite=False)
    except ValueError:
        return None
