"""Names of the files that hold a checkpoint's weights in the Hugging Face format."""

import os
from collections.abc import Collection
from pathlib import Path

from pipeline.checkpoints.hugging_face_cache import repository_of
from pipeline.checkpoints.layouts import contents_of
from pipeline.checkpoints.placeholders import placeholder_of
from pipeline.errors import CheckpointError, first_line
from pipeline.outside import content_of, parsed_json

# In order of preference: reading safetensors cannot run code.
_WHOLE = ("model.safetensors", "pytorch_model.bin")
_INDEXED = ("model.safetensors.index.json", "pytorch_model.bin.index.json")

# Replaces the weights of a converted checkpoint that could not be read; contains the reason.
REFUSAL = "ontogeny-refusal.txt"

# In the folder of a run of `ontogeny train`: its settings.
RUN_FILE = "training.yaml"

# Beside the checkpoints of a converted run: its table and split, and what was left out.
TABLE_FILE = "ontogeny-table.json"
NOTES_FILE = "ontogeny-notes.json"


def is_hugging_face(names: Collection[str]) -> bool:
    """Return whether a folder has a weight file, or an index of such files, of this format."""
    return any(name in names for name in (*_WHOLE, *_INDEXED, REFUSAL))


def main_file(place: str, names: Collection[str]) -> str:
    """Return the name, among a checkpoint's files, of its weight file or the index of its shards.

    Raises CheckpointError, naming the place, if there is none.
    """
    for whole, indexed in zip(_WHOLE, _INDEXED, strict=True):
        for name in (whole, indexed):
            if name in names:
                return name
    if REFUSAL in names and "://" not in place:
        reason = content_of(Path(place) / REFUSAL, CheckpointError)
        raise CheckpointError(reason.decode(errors="replace"))
    raise CheckpointError(
        f"{place}: holds no weights; expected one of {', '.join(_WHOLE + _INDEXED)}; "
        f"{contents_of(place, names)}"
    )


def is_index(name: str) -> bool:
    """Return whether a file is an index of shards rather than a weight file."""
    return name in _INDEXED


def shard_names(place: str, index: bytes) -> list[str]:
    """Return the names of the shards in an index file's content, sorted.

    Raises CheckpointError, naming the place, if it is no index, or if a name is a path, which could
    lead out of the checkpoint's folder.
    """
    names = sorted(set(files_of_tensors(place, index).values()))
    if not names:
        raise CheckpointError(f"{place}: names no weight shards: restore it")
    for name in names:
        if not is_plain_name(name):
            raise CheckpointError(
                f"{place}: names the shard {name!r}, expected a file beside it: restore the index"
            )
    return names


def files_of_tensors(place: str, index: bytes) -> dict[str, str]:
    """Return the shard of each tensor in an index file's content.

    Raises CheckpointError, naming the place, if it is no index.
    """
    reason = "its weight_map names no file for each tensor"
    try:
        found = parsed_json(index)["weight_map"]
        if isinstance(found, dict) and all(isinstance(name, str) for name in found.values()):
            return found
    except (ValueError, LookupError, TypeError) as error:
        reason = first_line(error)
    wrong = placeholder_of(index) or f"is no index of weight shards ({reason}): restore it"
    raise CheckpointError(f"{place}: {wrong}")


def is_plain_name(name: str) -> bool:
    """Return whether an untrusted name is the name of a file, and not a path or a hidden file."""
    hidden = name.startswith(".") or "\0" in name
    return bool(name) and not hidden and "/" not in name and "\\" not in name


def inside_run(folder: Path, name: str) -> Path:
    """Return the path of a file in a checkpoint's folder, after checking where it links to.

    Raises CheckpointError for a link out of the run's folder. Links between checkpoints of one run,
    which save space, are allowed, and so are those of a Hugging Face cache within the repository's
    folder.
    """
    path = folder / name
    if not _has_links(folder, name):
        return path
    target = Path(os.path.realpath(path))
    if leads_out(folder, target):
        raise CheckpointError(
            f"{path}: is a link that leads out of the run, to {target}: put the file itself there, "
            "or set `follow_links: true`"
        )
    return path


def _has_links(folder: Path, name: str) -> bool:
    """Return whether a folder, or a part of the path of a file in it, is a link or leads out."""
    parts = name.split("/")
    if ".." in parts or name.startswith("/"):
        return True
    return any(folder.joinpath(*parts[:count]).is_symlink() for count in range(len(parts) + 1))


def leads_out(folder: Path, target: Path) -> bool:
    """Return whether a real path is outside of the run that a checkpoint's folder is in."""
    # realpath, since `resolve` raises an error of its own for links in a circle.
    cached = repository_of(folder)
    roots = (folder.parent, cached) if cached else (folder.parent,)
    return not any(target.is_relative_to(os.path.realpath(root)) for root in roots)
