"""Find checkpoints among the folders of one commit on the Hub.

A checkpoint is a folder with a checkpoint's name (`checkpoint-500`, as transformers' Trainer pushes
them with `hub_strategy="all_checkpoints"`), directly in the commit or in one of its folders. The
model may lie deeper in it (`global_step_100/actor/huggingface`).
"""

from collections import defaultdict
from dataclasses import replace

from pipeline.checkpoints.files import main_file
from pipeline.checkpoints.hub_address import Address
from pipeline.checkpoints.hub_rows import directly_in, files_below, folders_in
from pipeline.checkpoints.hub_source import tree
from pipeline.checkpoints.left_out import NO_WEIGHTS, first_names
from pipeline.checkpoints.names import parse_name
from pipeline.checkpoints.stored import Entry, Files, Folder, StoredFile
from pipeline.config import RunLayout
from pipeline.errors import CheckpointError, InputError


def folders(commit: Address, uri: str, layout: RunLayout) -> tuple[list[Folder], list[Entry]]:
    """Return the checkpoints among the folders of a commit, below the address's path, and others.

    Takes one request, and another one for each 1,000 files if there are folders. Raises InputError,
    naming the run's `uri`, if several of its folders hold checkpoints.
    """
    top = commit.path or ""
    if not folders_in(tree(commit, top), top):
        return [], []
    everything = files_below(tree(commit, top, recursive=True), top)
    start = _run_within(uri, everything, layout)
    inside = _by_folder(_by_folder(everything)[start] if start else everything)
    found: list[Folder] = []
    others = [Entry(name) for name in inside.pop("", {})]
    for name, files in inside.items():
        one = _judged(commit, commit.below(f"{start}/{name}".lstrip("/")), name, files, layout)
        if isinstance(one, Folder):
            found.append(one)
        else:
            others.append(one)
    return found, others


def files_of(address: Address) -> Files:
    """Return the files directly in a folder of a commit; of those below it, if it has no weights.

    The latter have their paths relative to it, and lie at most one level deeper.
    """
    top = address.path or ""
    rows = tree(address, top)
    files = directly_in(files_below(rows, top))
    if has_weights(files) or not folders_in(rows, top):
        return files
    return _one_level(files_below(tree(address, top, recursive=True), top))


def model_in(files: Files) -> str | None:
    """Return the path of the only folder, of those below one without weights, that has weights.

    files: by their paths relative to it. None if there is no such folder, or several.
    """
    found = _models(files)
    return found[0] if len(found) == 1 else None


def has_weights(files: Files) -> bool:
    """Return whether weights are directly among the files."""
    try:
        main_file("", directly_in(files))
    except CheckpointError:
        return False
    return True


def _judged(
    commit: Address, path: str, name: str, files: Files, layout: RunLayout
) -> Folder | Entry:
    """Return the checkpoint in a folder, or an entry if it is none or holds several models."""
    if parse_name(name, layout) is None:
        return Entry(name, list(directly_in(files)))
    if not has_weights(files):
        models = _models(files)
        if len(models) > 1:
            reason = f"it holds several models ({first_names(models)}): keep one of them there"
            return Entry(name, kind=NO_WEIGHTS, reason=reason)
        if models:
            path, files = f"{path}/{models[0]}", _by_parent(files)[models[0]]
    here = directly_in(files) if has_weights(files) else _one_level(files)
    named = {below: replace(file, name=below) for below, file in here.items()}
    return Folder(name, str(commit.at(str(commit.ref), path)), named)


def _run_within(uri: str, files: Files, layout: RunLayout) -> str:
    """Return the folder that holds checkpoints: "" for the top itself, or one directly in it."""
    inside = _by_folder(files)
    if any(parse_name(name, layout) is not None for name in inside):
        return ""
    runs = [
        name
        for name, below in inside.items()
        if any(parse_name(one, layout) is not None for one in _by_folder(below) if name and one)
    ]
    if len(runs) > 1:
        raise InputError(
            f"{uri}: holds checkpoints in {len(runs)} folders ({first_names(runs)}): choose one, "
            f"such as {uri.rstrip('/')}/{runs[0]}"
        )
    return runs[0] if runs else ""


def _models(files: Files) -> list[str]:
    """Return the folders, at any depth, that have weights directly in them."""
    return sorted(path for path, here in _by_parent(files).items() if path and has_weights(here))


def _by_folder(files: Files) -> dict[str, dict[str, StoredFile]]:
    """Return the files in each folder of the first level, at any depth; those in none under ""."""
    found: dict[str, dict[str, StoredFile]] = defaultdict(dict)
    for path, file in files.items():
        folder, _, rest = path.partition("/")
        found[folder if rest else ""][rest or path] = file
    return found


def _by_parent(files: Files) -> dict[str, dict[str, StoredFile]]:
    """Return the files directly in each folder, at any depth."""
    found: dict[str, dict[str, StoredFile]] = defaultdict(dict)
    for path, file in files.items():
        folder, _, name = path.rpartition("/")
        found[folder][name] = file
    return found


def _one_level(files: Files) -> Files:
    return {name: file for name, file in files.items() if name.count("/") <= 1}
