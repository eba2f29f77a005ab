"""Find checkpoints among the folders and files of one commit on the Hub.

Such as the folders `checkpoint-500` that transformers' Trainer pushes with
`hub_strategy="all_checkpoints"`. The rules are those of S3, see `file_trees.py`.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from pipeline.checkpoints.file_trees import contents_of, own_files
from pipeline.checkpoints.formats import holds_weights
from pipeline.checkpoints.hub_address import Address
from pipeline.checkpoints.hub_rows import Row, directly_in, files_below, folders_in
from pipeline.checkpoints.hub_source import tree
from pipeline.checkpoints.names import may_be_checkpoint_file
from pipeline.checkpoints.stored import Files, PlaceContents, StoredFile
from pipeline.config import RunLayout


def contents_in(commit: Address, layout: RunLayout) -> PlaceContents:
    """Return the checkpoints of a commit, below the address's path, and what else is there.

    Takes one request, and if there are folders another one for each 1,000 files.
    """
    return contents_of(str(commit), files_by_folder(commit), layout)


def files_of(address: Address) -> Files:
    """Return the files of a checkpoint, as `stored.Files` has them.

    For the address of a file that is a checkpoint by itself, that file.
    """
    folder, _, name = (address.path or "").rpartition("/")
    if may_be_checkpoint_file(name):
        parent = replace(address, path=folder or None)
        beside = directly_in(files_below(tree(parent, folder), folder))
        if name in beside:
            return {name: replace(beside[name], at=str(parent))}
    top = address.path or ""
    rows = tree(address, top)
    directly = directly_in(files_below(rows, top))
    if holds_weights(directly) or not folders_in(rows, top):
        return directly
    return own_files(_by_folder(tree(address, top, recursive=True), top))


def files_by_folder(address: Address) -> dict[str, dict[str, StoredFile]]:
    """Return the files in each folder at and below an address, by its path in it."""
    top = address.path or ""
    rows = tree(address, top)
    if folders_in(rows, top):
        rows = tree(address, top, recursive=True)
    return _by_folder(rows, top)


def _by_folder(rows: Iterable[Row], top: str) -> dict[str, dict[str, StoredFile]]:
    found: dict[str, dict[str, StoredFile]] = defaultdict(dict)
    for path, file in files_below(rows, top).items():
        folder, _, name = path.rpartition("/")
        found[folder][name] = replace(file, name=name)
    return dict(found)
