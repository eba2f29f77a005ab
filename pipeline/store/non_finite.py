"""Known non-finite numbers: of weights, by their digest, and of rows.

One small object for each, made before the row itself, so that no row is ever there without it:

    _non_finite/weights/<digest>             the tensors and the counts, in words
    _non_finite/rows/<group>/<fingerprint>   [variable, "so many of so many"] for each of these

The second is named by what the row follows from, so that it holds for each row that is the same.
"""

from collections.abc import Mapping
from dataclasses import replace

from pipeline.store.commits import shown
from pipeline.store.sealed import DamagedError, seal, unseal
from pipeline.store.snapshots import Snapshot
from pipeline.store.store import Store
from pipeline.store.versions import Version

FOLDER = "_non_finite"
_WEIGHTS, _ROWS = f"{FOLDER}/weights", f"{FOLDER}/rows"
_MOST = 4  # variables that are named


def keep_weights(store: Store, digest: str, why: str) -> None:
    """Remember that the weights with this digest are not finite."""
    store.objects.put({f"{_WEIGHTS}/{digest}": seal(why)})


def known_weights(store: Store) -> dict[str, str]:
    """Return by digest, in words, which weights are not finite. {} without a store."""
    objects = store.objects
    found = {key.rpartition("/")[2]: objects.read(key) for key in objects.list(_WEIGHTS)}
    return {d: why for d, content in found.items() if isinstance(why := _opened(content), str)}


def keep_row(store: Store, group: str, fingerprint: str, counts: Mapping[str, str]) -> None:
    """Remember of a row, before it is committed, which variables are not finite."""
    store.objects.put({row_key(group, fingerprint): seal(list(counts.items()))})


def row_key(group: str, fingerprint: str) -> str:
    """Return the key of what is remembered of the rows with a fingerprint."""
    return f"{_ROWS}/{group}/{fingerprint}"


def steps_not_finite(store: Store, snapshot: Snapshot) -> dict[int, str]:
    """Return by step, in words: which variables are not finite because the model is not.

    Covers the rows that readers see. Weights that are not finite are named first.
    """
    keys, weights = set(store.objects.list(_ROWS)), known_weights(store)
    if not keys and not weights:
        return {}
    found: dict[int, list[str]] = {}
    version = snapshot.version
    for group in version.groups:
        for commit in shown(snapshot.of(group), version.current(group) or "", version.masked):
            said = found.setdefault(commit.step, [])
            said += [f"weights {what}" for digest, what in weights.items() if commit.is_of(digest)]
            key = row_key(group, commit.fingerprint)
            if key in keys and isinstance(counts := _opened(store.objects.read(key)), list):
                said += [f"{group}/{variable} ({count})" for variable, count in counts]
    return {
        step: _listed(list(dict.fromkeys(said))) for step, said in sorted(found.items()) if said
    }


def keep_not_finite(store: Store) -> dict[int, str]:
    """Keep in a version which steps of the rows that it shows are not finite; return them."""

    def change(version: Version) -> Version:
        found = steps_not_finite(store, store.snapshot(version))
        return replace(version, not_finite=found)

    return dict(store.versions.change(change).not_finite)


def _opened(content: bytes | None) -> object:
    """Return what an object says; None where it is damaged, as it is only about other numbers."""
    try:
        return None if content is None else unseal(content)
    except DamagedError:
        return None


def _listed(said: list[str]) -> str:
    more = f" and {len(said) - _MOST} more" if len(said) > _MOST else ""
    return f"{', '.join(said[:_MOST])}{more}"
