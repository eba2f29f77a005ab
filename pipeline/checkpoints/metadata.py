"""Provide the small files of a run or checkpoint locally: config, tokenizer, training.yaml."""

import hashlib
import json
from pathlib import Path

from pipeline.checkpoints.cache import cache_folder
from pipeline.checkpoints.configs import whole_config
from pipeline.checkpoints.contents import format_of_files, read_small
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
    folder is returned as it is, or its conversion if it is in another format. If a checkpoint's
    config.json is elsewhere, or must be made (see `configs.config_of`), or a checkpoint is not
    directly in the run's folder, it is a copy. Downloads are cached by their content. Raises
    InputError if the storage denies access or a file is absent.
    """
    if (local := _local_folder(folder)) is not None and all(_is_in(local, one) for one in inside):
        return local
    try:
        folders = {"": _listed(folder)}
        for number, one in enumerate(inside):
            folders[f"checkpoint-{number}"] = _listed(one)
        return _kept(folders, _SUFFIXES + ((".py",) if code else ()))
    except CheckpointError as error:
        raise InputError(str(error)) from error


def _local_folder(folder: Folder | str) -> Path | None:
    """Return a folder on this machine that holds its own config.json; None for others."""
    if isinstance(folder, str):
        return None if remote_place_of(folder) else ordinary_run(folder)
    return None if remote_place_of(folder.uri) or _lacks_config(folder) else Path(folder.uri)


def _is_in(run: Path, checkpoint: Folder | str) -> bool:
    uri = checkpoint if isinstance(checkpoint, str) else checkpoint.uri
    return remote_place_of(uri) is None and Path(uri).parent == run


def _lacks_config(folder: Folder) -> bool:
    """Return whether a checkpoint has a config.json, but not in its own folder."""
    file = folder.files.get("config.json")
    return format_of_files(folder.files) is not None if file is None else bool(file.at)


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
    made = {
        f"{where}/config.json".lstrip("/"): json.dumps(whole_config(place_of(folder.uri), folder))
        for where, folder in folders.items()
        if _lacks_config(folder)
    }
    state = "\n".join(
        [f"{path} {_identity(f, name)}" for path, (f, name) in wanted.items()] + list(made.values())
    )
    kept = cache_folder() / "metadata" / hashlib.sha256(state.encode()).hexdigest()
    if kept.is_dir():
        return kept
    with whole_folder(kept) as draft:
        draft.mkdir(parents=True)
        for path, (folder, name) in wanted.items():
            file = draft / path
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(read_small(place_of(folder.uri), folder, name))
        for path, config in made.items():
            file = draft / path
            file.parent.mkdir(exist_ok=True)
            file.write_text(config, encoding="utf-8")
    return kept


def _identity(folder: Folder, name: str) -> str:
    """Return a string that changes with a file's content."""
    file = folder.files[name]
    return file.identity or f"{folder.uri} {name} {file.size} {file.changed}"


def _is_wanted(folder: Folder, name: str, suffixes: tuple[str, ...]) -> bool:
    is_small = folder.files[name].size <= largest(name)
    return is_plain_name(name) and name.endswith(suffixes) and is_small and not is_index(name)
