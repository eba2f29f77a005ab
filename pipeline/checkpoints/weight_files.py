"""Find the files that hold a checkpoint's weights, by its listing and its index of shards."""

from pathlib import Path

from pipeline.checkpoints.contents import format_of_files, read_small
from pipeline.checkpoints.digests import combined
from pipeline.checkpoints.files import (
    files_of_tensors,
    inside_run,
    is_index,
    main_file,
    shard_names,
)
from pipeline.checkpoints.formats.base import LocalParts
from pipeline.checkpoints.places import folder_of, place_of
from pipeline.checkpoints.stored import Folder, Place, StoredFile
from pipeline.errors import CheckpointError
from pipeline.outside import reading


def local_parts(folder: Folder | str | Path) -> LocalParts:
    """Return the files that hold the weights of a checkpoint on this machine.

    folder: with its files as they were listed, or its address, which is then listed. Raises
    CheckpointError if there are none, if an index names a missing file, or if a link leads out of
    the run that the checkpoint belongs to.
    """
    listed = folder if isinstance(folder, Folder) else folder_of(str(folder))
    parts = weight_parts(place_of(listed.uri), listed)
    paths = {part.name: _local_path(listed, part) for part in parts}
    return LocalParts(paths, format_of_files(listed.files))


def _local_path(folder: Folder, part: StoredFile) -> Path:
    """Return the path of a weight file, under the name that the checkpoint has it by."""
    target = inside_run(Path(part.at or folder.uri), part.name_there)
    if not part.real_name:
        return target
    # The link itself, since the suffix of a name tells how a file is read.
    own = Path(folder.uri)
    link = own if own.name == part.name else own / part.name
    if not link.exists() or not link.samefile(target):
        raise CheckpointError(f"{link}: no longer leads to {target}: analyse the run again")
    return link


def weight_parts(place: Place, folder: Folder) -> list[StoredFile]:
    """Return the files that hold a checkpoint's weights, by name, after reading an index if any.

    Raises CheckpointError if there are none, or if a file is missing.
    """
    main, names = part_names(place, folder)
    if absent := [name for name in names if name not in folder.files]:
        raise CheckpointError(
            f"{folder.uri}/{absent[0]}: is missing, though {main} names it: restore it"
        )
    return [folder.files[name] for name in names]


def part_names(place: Place, folder: Folder) -> tuple[str, list[str]]:
    """Return the name of the weight file or index, and the names of all files with weights."""
    if known := format_of_files(folder.files):
        names = known.weights(folder.files)
        return names[0], names
    main = main_file(folder.uri, folder.files)
    if not is_index(main):
        return main, [main]
    index = read_small(place, folder, main)
    return main, shard_names(f"{folder.uri}/{main}", index)


def tensors_by_part(place: Place, folder: Folder) -> dict[str, str]:
    """Return the file of each tensor of a sharded checkpoint; {} for a checkpoint of one file.

    {} also for other formats than that of Hugging Face.
    """
    if format_of_files(folder.files):
        return {}
    main = main_file(folder.uri, folder.files)
    if not is_index(main):
        return {}
    return files_of_tensors(f"{folder.uri}/{main}", read_small(place, folder, main))


def known_digest(place: Place, folder: Folder) -> str | None:
    """Return the digest of a checkpoint's weights; None if they would have to be read for it."""
    try:
        with reading(folder.uri):
            return combined((part.name, part.sha256) for part in weight_parts(place, folder))
    except CheckpointError:
        return None
