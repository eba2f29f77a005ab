"""What is known not to be finite: weights, by their digest, and rows.

One small object for each, made before the row's own marker, so that no row is ever there without
it:

    _non_finite/weights/<digest>         the tensors and the counts, in words
    _non_finite/rows/<group>/<marker>    {variable: "so many of so many"}
"""

import json
from collections.abc import Mapping

from pipeline.store.markers import FOLDER as COMMITS
from pipeline.store.markers import Commit, shown
from pipeline.store.store import Store

_WEIGHTS, _ROWS = "_non_finite/weights", "_non_finite/rows"
_MOST = 4  # variables that are named


def keep_weights(store: Store, digest: str, why: str) -> None:
    """Remember that the weights with this digest are not finite."""
    store.objects.replace(f"{_WEIGHTS}/{digest}", why.encode())


def known_weights(store: Store) -> dict[str, str]:
    """By digest, in words, what of a checkpoint's weights is not finite. {} without a store."""
    objects = store.objects
    found = {key.rpartition("/")[2]: objects.read(key) for key in objects.list(_WEIGHTS)}
    return {digest: why.decode() for digest, why in found.items() if why is not None}


def keep_row(store: Store, commit: Commit, counts: Mapping[str, str]) -> None:
    """Remember of a row, before it is committed, which variables are not finite."""
    store.objects.replace(row_key(commit), json.dumps(dict(counts)).encode())


def row_key(commit: Commit) -> str:
    """The key of what is remembered of a row."""
    return commit.key.replace(COMMITS, _ROWS, 1)


def rows_not_finite(store: Store) -> dict[int, dict[str, dict[str, str]]]:
    """By step and group: the variables with numbers that are not finite because of the model.

    Of the rows that readers are shown.
    """
    keys = store.objects.list(_ROWS)
    if not keys:
        return {}
    commits, catalogue = store.commits(), store.catalogue()
    found: dict[int, dict[str, dict[str, str]]] = {}
    for name, group in catalogue.groups.items():
        of_group = (commit for commit in commits if commit.group == name)
        for commit in shown(of_group, str(group.attrs["current"]), catalogue.masked):
            if row_key(commit) in keys and (content := store.objects.read(row_key(commit))):
                found.setdefault(commit.step, {})[name] = json.loads(content)
    return dict(sorted(found.items()))


def in_words(groups: Mapping[str, Mapping[str, str]]) -> str:
    """The variables of one step, with their counts: "token_loss/mean (1 of 1), ..."."""
    named = [f"{group}/{v} ({n})" for group, of in groups.items() for v, n in of.items()]
    more = f" and {len(named) - _MOST} more" if len(named) > _MOST else ""
    return f"not finite: {', '.join(named[:_MOST])}{more}"
