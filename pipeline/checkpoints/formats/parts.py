"""Folders and state dicts of formats of many files, none of which says which model it is of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pipeline.checkpoints.formats.base import Source
from pipeline.errors import CheckpointError

if TYPE_CHECKING:  # listings are made without torch
    from torch import Tensor

_SHOWN = 3  # names that a message lists


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


def state_dict_in(content: Any, file: Path, key: str | None = None) -> dict[str, Tensor]:
    """Return the tensors that a file holds by name, under a key if one is given.

    Raises CheckpointError, naming the file, if there are none, or other objects too.
    """
    from torch import Tensor

    held = content.get(key) if key is not None and isinstance(content, Mapping) else content
    if not isinstance(held, Mapping) or not all(isinstance(one, Tensor) for one in held.values()):
        found = shown(list(content)) if isinstance(content, Mapping) else type(content).__name__
        under = "" if key is None else f" under {key!r}"
        raise CheckpointError(
            f"{file}: expected tensors by name{under}, found {found}: save the model's state_dict()"
        )
    return {str(name): tensor for name, tensor in held.items()}


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
