"""The files of checkpoints that consist of many: their folders, and the model that none of them says.
"""

from collections import defaultdict
from collections.abc import Collection
from typing import Any, NoReturn

from pipeline.checkpoints.formats.base import Source
from pipeline.errors import CheckpointError

# Names that a message lists.
_SHOWN = 3


def by_folder(names: Collection[str]) -> dict[str, list[str]]:
    """Return the files of each folder, by its name ("" for the checkpoint's own), without it."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        folder, _, file = name.rpartition("/")
        found[folder].append(file)
    return dict(found)


def joined(folder: str, name: str) -> str:
    """Return the name, among a checkpoint's files, of a file in one of its folders."""
    return f"{folder}/{name}" if folder else name


def refuse_without_config(source: Source, name: str) -> NoReturn:
    """Raise CheckpointError for a file that does not say which model its weights are of."""
    raise CheckpointError(
        f"{source.uri}/{name}: does not say which model it is of, and there is no config.json: "
        "put the model's beside the checkpoints, or name it by `config` in the analysis"
    )


def shown(names: Collection[Any]) -> str:
    """Return the first of some names, for a message."""
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(map(str, list(names)[:_SHOWN])) + more if names else "nothing"
