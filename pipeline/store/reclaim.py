"""Reclaiming space: removal of objects that no reader sees any more.

These are rows that have been recomputed, rows that a killed worker left without a marker, all rows
of variants that are not current, and unfinished files. Only objects that have not changed for a
while are removed: a reader may still have a recomputed row open, and a worker may take long between
its first chunk and its marker.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline.store import Store, layout
from pipeline.store.lease import owned
from pipeline.store.markers import Commit, latest
from pipeline.store.non_finite import row_key
from pipeline.store.objects import PARTIAL
from pipeline.store.rows import ROWS

DAY = 86400.0

_Row = tuple[str, str, int]  # group, variant, storage row
_Facts = Mapping[str, tuple[int, float]]  # by key: bytes, time of the last change


@dataclass(frozen=True)
class Reclaimed:
    """Counts of removed rows, variants, objects and bytes; in a dry run, of those that would be."""

    rows: int = 0
    variants: int = 0
    objects: int = 0
    bytes: int = 0


def reclaim(
    store: Store, older_than: float = DAY, keep_variants: bool = False, dry_run: bool = False
) -> Reclaimed:
    """Remove objects that no reader sees and that have not changed for `older_than` seconds.

    keep_variants: keep the rows of variants that are not current (of other parameters, inputs or
    versions), so that returning to them needs no computation. dry_run: only count what would be
    removed. Raises InputError while an analysis owns the store.
    """
    with owned(store):
        commits, groups = store.commits(), store.catalogue().groups
        current = {name: str(group.attrs["current"]) for name, group in groups.items()}
        facts = store.objects.facts()
        rows = _wasted_rows(commits, current, facts, time.time() - older_than, keep_variants)
        variants = _emptied_variants(facts, current, rows)
        keys = [key for row in rows.values() for key in row]
        keys += [key for key in facts if _variant_of(key) in variants]
        keys += [k for k in facts if k.endswith(PARTIAL) and facts[k][1] < time.time() - older_than]
        if not dry_run:
            _remove(store, list(dict.fromkeys(keys)), variants)
    removed = set(keys)
    return Reclaimed(len(rows), len(variants), len(removed), sum(facts[key][0] for key in removed))


def _wasted_rows(
    commits: Iterable[Commit],
    current: Mapping[str, str],
    facts: _Facts,
    before: float,
    keep_variants: bool,
) -> dict[_Row, list[str]]:
    """Return the keys (markers and chunks) of each row that can be removed."""
    commits = list(commits)
    standing = {group: latest(_of(commits, group), variant) for group, variant in current.items()}
    seen = {_row(commit) for rows in standing.values() for commit in rows.values()}
    found = _keys_by_row(facts)
    for commit in commits:
        found[_row(commit)] += [commit.key, row_key(commit)]
        # The age of a row that was recomputed is the age of the row that replaced it.
        if (later := standing.get(commit.group, {}).get(commit.step)) and later != commit:
            found[_row(commit)].append(later.key)

    def goes(row: _Row, keys: list[str]) -> bool:
        group, variant, _ = row
        if row in seen or group not in current or (keep_variants and variant != current[group]):
            return False
        return all(facts[key][1] < before for key in keys if key in facts)

    # The markers of current rows were listed above only for their age.
    kept = {commit.key for rows in standing.values() for commit in rows.values()}
    return {
        row: [key for key in keys if key in facts and key not in kept]
        for row, keys in found.items()
        if goes(row, keys)
    }


def _emptied_variants(
    facts: _Facts, current: Mapping[str, str], rows: Iterable[_Row]
) -> set[tuple[str, str]]:
    """Return the variants that are not current and of which no row remains."""
    others = {place for key in facts if (place := _variant_of(key)) is not None}
    others = {(g, c) for g, c in others if g in current and current[g] != c}
    going = set(rows)
    remaining = {row[:2] for row in _keys_by_row(facts) if row not in going}
    used = {row[:2] for row in going}
    return {place for place in others & used if place not in remaining}


def _remove(store: Store, keys: list[str], variants: Iterable[tuple[str, str]]) -> None:
    """Remove objects, markers first.

    If this is interrupted, a row without its marker is invisible; a marker without its row is not.
    """
    markers = [key for key in keys if not key.startswith(f"{ROWS}/")]
    store.objects.delete_all(markers)
    store.objects.delete_all([key for key in keys if key.startswith(f"{ROWS}/")])
    for group, variant in variants:
        store.objects.delete(f"{ROWS}/{group}/{variant}")
    if variants:  # chunks are not part of the metadata, arrays are
        layout.consolidate(store.objects.zarr(ROWS))


def _of(commits: Iterable[Commit], group: str) -> list[Commit]:
    return [commit for commit in commits if commit.group == group]


def _row(commit: Commit) -> _Row:
    return commit.group, commit.variant, commit.row


def _keys_by_row(facts: _Facts) -> dict[_Row, list[str]]:
    """Return the chunks `rows/<group>/<variant>/<array>/c/<row>[/...]` of each storage row."""
    found: dict[_Row, list[str]] = defaultdict(list)
    for key in facts:
        parts = key.split("/")
        if len(parts) > 5 and parts[0] == ROWS and parts[4] == "c":
            # Also of unfinished chunks, `<row>.<random>.partial`.
            number = parts[5].partition(".")[0]
            if number.isdigit():
                found[(parts[1], parts[2], int(number))].append(key)
    return found


def _variant_of(key: str) -> tuple[str, str] | None:
    parts = key.split("/")
    return (parts[1], parts[2]) if len(parts) > 3 and parts[0] == ROWS else None
