"""Sealing and reclaiming: name the rows that are kept, and remove what no reader sees any more.

The latter are rows that were computed again since, rows of variants that are not current, rows
that were dropped, what a killed or sleeping writer left behind, old trajectories, results of other
rows than those that are shown, old versions and unfinished files. Sealing makes that safe without
clocks (see `versions`). An age is asked for beside it, as a comfort for readers that have an older
version open.
"""

import time
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, replace
from typing import Any

from pipeline.store.commits import LARGE, PACKS, Commit, latest
from pipeline.store.lease import owned
from pipeline.store.local_files import PARTIAL
from pipeline.store.probe import FOLDER as PROBES
from pipeline.store.results import outdated
from pipeline.store.snapshots import listed, rows_of
from pipeline.store.store import Store
from pipeline.store.trajectories import FOLDER as TRAJECTORIES
from pipeline.store.versions import FOLDER as VERSIONS
from pipeline.store.versions import Version, key_of

DAY = 86400.0
_KEPT_VERSIONS = 10  # to go back to, where the newest is damaged


@dataclass(frozen=True)
class Reclaimed:
    """The amount that was removed, or would be: rows, objects in all, and their bytes."""

    rows: int = 0
    objects: int = 0
    bytes: int = 0


def tidy(store: Store, older_than: float = DAY) -> None:
    """Remove trajectories and versions that were replaced, and are older than so many seconds.

    Each analysis does so at its end: with every look of `watch` come new ones. Those of sealed
    generations that the newest version does not name, no later version can name.
    """
    version, before = store.version(), time.time() - older_than
    facts = {**store.objects.facts(TRAJECTORIES), **store.objects.facts(VERSIONS)}
    old = {key for key, (_, changed) in facts.items() if changed < before}
    store.objects.delete_all(_unnamed(version, old))


def seal(store: Store) -> Version:
    """Name all rows that are stored in a new version; return it.

    Readers then list only the generation that begins with it. Where no row was written since the
    last time, nothing changes.
    """
    version = store.version()
    if not version.closing and set(rows_of(store.objects, version)) == set(version.rows):
        return version
    return _seal(store, lambda version, rows: replace(version, rows=tuple(rows)))


def reclaim(
    store: Store, older_than: float = DAY, keep_variants: bool = False, dry_run: bool = False
) -> Reclaimed:
    """Remove what no reader sees and what is older than `older_than` seconds.

    keep_variants: keep the rows of variants that are not current (of other parameters, inputs or
    versions), so that returning to them needs no computation. dry_run: only count what would be
    removed. Raises InputError while an analysis owns the store.
    """
    with owned(store):
        facts, before = store.objects.facts(), time.time() - older_than
        old = {key for key, (_, changed) in facts.items() if changed < before}

        def keep(version: Version, rows: list[Commit]) -> Version:
            kept = _kept(version, rows, old, keep_variants)
            groups = version.groups if keep_variants else _with_rows(version, kept)
            return replace(version, rows=tuple(kept), groups=groups)

        if dry_run:
            version = store.version()
            version = keep(version, rows_of(store.objects, version))
            version = replace(version, open=version.open + 1, closing=())
        else:
            version = _seal(store, keep)
        results = outdated(store.objects, store.snapshot(version), facts)
        unnamed = sorted({*_unnamed(version, old), *(old & set(results))})
        if not dry_run:
            store.objects.delete_all(unnamed)
    rows = sum(key.startswith(f"{PACKS}/") for key in unnamed)
    return Reclaimed(rows, len(unnamed), sum(facts[key][0] for key in unnamed))


Keep = Callable[[Version, list[Commit]], Version]


def _seal(store: Store, keep: Keep) -> Version:
    """Close the open generation, list what is closed, and name the rows that `keep` keeps."""

    def close(version: Version) -> Version:
        return replace(version, closing=version.unsealed, open=version.open + 1)

    closed = store.versions.change(close)
    # Only now, when nobody counts a row of these generations as stored that is not there yet.
    found = listed(store.objects, closed.closing)

    def name(version: Version) -> Version:
        if not set(closed.closing) <= set(version.closing):
            return version  # another coordinator has sealed them
        there = {*version.rows, *found}
        rows = [commit for commit in there if commit.key not in version.dropped]
        closing = tuple(one for one in version.closing if one not in closed.closing)
        unsealed = {*closing, version.open}
        left = frozenset(k for k in version.dropped if _generation(k) in unsealed)
        return replace(keep(version, sorted(rows)), closing=closing, dropped=left)

    version = store.versions.change(name)
    # Another coordinator may have sealed only a part of them at the same time.
    return _seal(store, keep) if {*closed.closing} & {*version.closing} else version


def _kept(version: Version, rows: list[Commit], old: Set[str], keep_variants: bool) -> list[Commit]:
    """Return the rows that stand, of the variants that are kept, and those that are not old."""
    stand = {
        (group, variant): latest((c for c in rows if c.group == group), variant)
        for group, variant in {(commit.group, commit.variant) for commit in rows}
    }

    def stays(commit: Commit) -> bool:
        current = version.current(commit.group) or ""
        variant = commit.variant if keep_variants else current
        standing = stand.get((commit.group, variant), {}).get(commit.step)
        # A row that another has replaced is young as long as that one is.
        return standing == commit or any(
            one.key not in old for one in (commit, standing) if one is not None
        )

    return [commit for commit in rows if stays(commit)]


def _with_rows(version: Version, rows: Iterable[Commit]) -> dict[str, Any]:
    """Return the groups without variants that are neither current nor have any row."""
    used = {(commit.group, commit.variant) for commit in rows}
    return {
        group: {
            "current": entry["current"],
            "variants": {
                variant: template
                for variant, template in entry["variants"].items()
                if variant == entry["current"] or (group, variant) in used
            },
        }
        for group, entry in version.groups.items()
    }


def _unnamed(version: Version, keys: Iterable[str]) -> list[str]:
    """Return the keys of closed generations that a version does not name, and other remains."""
    packs = {commit.key for commit in version.rows}
    large = {key.replace(PACKS, LARGE, 1) for key in packs}
    folders = {
        f"{TRAJECTORIES}/{folder}"
        for one in version.published.values()
        for folder in (one.folder, one.previous)
    }
    folders |= {f"{folder.rpartition('/')[0]}/zarr.json" for folder in folders}
    versions = {key_of(version.number - back) for back in range(_KEPT_VERSIONS)}

    def goes(key: str) -> bool:
        kind = key.partition("/")[0]
        if key.endswith(PARTIAL) or kind == PROBES:
            return True
        if kind in (PACKS, LARGE, TRAJECTORIES):
            generation = _generation(key)
            if generation is None or generation >= version.open or generation in version.closing:
                return False
            if kind == PACKS:
                return key not in packs
            folder = key.rpartition("/")[0] if kind == LARGE else "/".join(key.split("/")[:3])
            return folder not in (large if kind == LARGE else folders)
        return kind == VERSIONS and key not in versions

    return sorted(key for key in keys if goes(key))


def _generation(key: str) -> int | None:
    """Return the generation of a row or of trajectories, None for a foreign object."""
    parts = key.split("/")
    inside = len(parts) > 3 or parts[2:] == ["zarr.json"]
    return int(parts[1]) if inside and parts[1].isdecimal() else None
