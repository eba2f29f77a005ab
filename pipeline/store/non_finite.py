"""Known non-finite numbers: of weights, by their digest, and of rows.

One small object for each, created before the row's own marker, so that no row is ever visible
without it:

    _non_finite/weights/<digest>         the tensors and the counts, as text
    _non_finite/rows/<group>/<marker>    {variable: "<count> of <size>"}
"""

import json
from collections.abc import Mapping

from pipeline.store.markers import FOLDER as COMMITS
from pipeline.store.markers import Commit, shown
from pipeline.store.store import Store

_WEIGHTS, _ROWS = "_non_finite/weights", "_non_finite/rows"
_MOST = 4  # variables named in one message


def keep_weights(store: Store, digest: str, why: str) -> None:
    """Store that the weights with this digest are not finite, and why."""
    store.objects.replace(f"{_WEIGHTS}/{digest}", why.encode())


def known_weights(store: Store) -> dict[str, str]:
    """Return which tensors of a checkpoint are not finite, by its digest; {} without a store."""
    objects = store.objects
    found = {key.rpartition("/")[2]: objects.read(key) for key in objects.list(_WEIGHTS)}
    return {digest: why.decode() for digest, why in found.items() if why is not None}


def keep_row(store: Store, commit: Commit, counts: Mapping[str, str]) -> None:
    """Store which variables of a row are not finite, before the row is committed."""
    store.objects.replace(row_key(commit), json.dumps(dict(counts)).encode())


def row_key(commit: Commit) -> str:
    """Return the key of the object that `keep_row` stores for a row."""
    return commit.key.replace(COMMITS, _ROWS, 1)


def steps_not_finite(store: Store) -> dict[int, str]:
    """Return which variables are not finite because the model is not, with counts, by step.

    Covers the rows that readers see. Weights that are not finite are named first.
    """
    keys, weights = set(store.objects.list(_ROWS)), known_weights(store)
    if not keys and not weights:
        return {}
    found: dict[int, list[str]] = {}
    commits, catalogue = store.commits(), store.catalogue()  # in this order: see `store`
    for name, group in catalogue.groups.items():
        of_group = (commit for commit in commits if commit.group == name)
        for commit in shown(of_group, str(group.attrs["current"]), catalogue.masked):
            said = found.setdefault(commit.step, [])
            said += [f"weights {what}" for digest, what in weights.items() if commit.is_of(digest)]
            if row_key(commit) in keys:
                counts = json.loads(store.objects.read(row_key(commit)) or b"{}")
                said += [f"{name}/{variable} ({count})" for variable, count in counts.items()]
    return {
        step: _listed(list(dict.fromkeys(said))) for step, said in sorted(found.items()) if said
    }


def _listed(said: list[str]) -> str:
    more = f" and {len(said) - _MOST} more" if len(said) > _MOST else ""
    return f"{', '.join(said[:_MOST])}{more}"
