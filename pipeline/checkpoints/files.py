"""Which files of a checkpoint's folder hold its weights."""

import json
from pathlib import Path

from pipeline.errors import CheckpointError

# In order of preference: safetensors cannot run code when it is read.
_WHOLE = ("model.safetensors", "pytorch_model.bin")
_INDEXED = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def weight_files(folder: str | Path) -> list[Path]:
    """The files that hold the weights of the checkpoint in `folder`, sorted by name.

    Raises CheckpointError where there are none, or where an index names a file that is missing.
    """
    folder = Path(folder)
    for whole, indexed in zip(_WHOLE, _INDEXED, strict=True):
        if (folder / whole).is_file():
            return [folder / whole]
        if (folder / indexed).is_file():
            return _shards(folder / indexed)
    raise CheckpointError(
        f"{folder}: holds no weights; expected one of {', '.join(_WHOLE + _INDEXED)}"
    )


def _shards(index: Path) -> list[Path]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{index}: is no index of weight shards: restore it") from error
    shards = [index.parent / name for name in sorted(names)]
    for shard in shards:
        if shard.parent != index.parent:
            raise CheckpointError(f"{index}: names {shard.name!r} outside of its own folder")
        if not shard.is_file():
            raise CheckpointError(f"{shard}: is missing, though {index.name} names it: restore it")
    return shards
