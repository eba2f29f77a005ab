"""Provide the small files of a run or checkpoint locally: config, tokenizer, training.yaml."""

import hashlib
from pathlib import Path

from pipeline.checkpoints.cache import cache_folder
from pipeline.checkpoints.contents import read_small
from pipeline.checkpoints.files import is_index, is_plain_name
from pipeline.checkpoints.foreign import ordinary_run
from pipeline.checkpoints.places import folder_of, place_of, remote_place_of
from pipeline.checkpoints.stored import Folder
from pipeline.errors import CheckpointError, InputError
from pipeline.outside import largest
from pipeline.writing import whole_folder

_SUFFIXES = (".json", ".yaml", ".txt", ".model", ".jinja")


def metadata_folder(folder: Folder | str, *inside: Folder | str, code: bool = False) -> Path:
    """Return a local folder with the small files that are directly in `folder`.

    folder: as it was listed, or its address, which is then listed. inside: checkpoints whose small
    files are put into subfolders. code: include Python files, for `trust_remote_code` only. A local
    folder is returned as it is, or its conversion if it is in another format. Downloads are cached
    by their content. Raises InputError if the storage denies access or a file is absent.
    """
    uri = folder if isinstance(folder, str) else folder.uri
    if remote_place_of(uri) is None:
        return ordinary_run(uri)
    try:
        folders = {"": _listed(folder)}
        for number, one in enumerate(inside):
            folders[f"checkpoint-{number}"] = _listed(one)
        return _kept(folders, _SUFFIXES + ((".py",) if code else ()))
    except CheckpointError as error:
        raise InputError(str(error)) from error


def _listed(folder: Folder | str) -> Folder:
    return folder_of(folder) if isinstance(folder, str) else folder


def _kept(folders: dict[str, Folder], suffixes: tuple[str, ...]) -> Path:
    wanted = {
        f"{where}/{name}".lstrip("/"): (folder, name)
        for where, folder in folders.items()
        for name in sorted(folder.files)
        if _is_wanted(folder, name, suffixes)
    }
    # Identities come from the content, so that equal files of two checkpoints share a folder.
    state = "\n".join(f"{path} {f.files[name].identity}" for path, (f, name) in wanted.items())
    kept = cache_folder() / "metadata" / hashlib.sha256(state.encode()).hexdigest()
    if kept.is_dir():
        return kept
    with whole_folder(kept) as draft:
        draft.mkdir(parents=True)
        for path, (folder, name) in wanted.items():
            file = draft / path
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(read_small(place_of(folder.uri), folder, name))
    return kept


def _is_wanted(folder: Folder, name: str, suffixes: tuple[str, ...]) -> bool:
    is_small = folder.files[name].size <= largest(name)
    return is_plain_name(name) and name.endswith(suffixes) and is_small and not is_index(name)
