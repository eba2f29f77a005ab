"""The contents of a run, from a listing of all files below its address."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from pipeline.checkpoints.formats import holds_weights
from pipeline.checkpoints.left_out import NO_WEIGHTS
from pipeline.checkpoints.names import companions, folder_inside, parse_file_name, parse_name
from pipeline.checkpoints.nested import MOST_LEVELS, model_folders, why_none
from pipeline.checkpoints.stored import Entry, Files, Folder, PlaceContents
from pipeline.config import RunLayout


def contents_of(uri: str, found: Mapping[str, Files], layout: RunLayout) -> PlaceContents:
    """Return the checkpoints of a run, by their names, and its other entries.

    found: the files in each folder at and below `uri`, by its path in it.
    """
    loose = found.get("", {})
    trees: dict[str, dict[str, Files]] = defaultdict(dict)
    for path, files in found.items():
        top, _, below = path.partition("/")
        if top:
            trees[top][below] = files
    entries = [
        *(_single(uri, name, loose, layout) for name in loose),
        *(_folder(uri, top, tree, layout) for top, tree in trees.items()),
    ]
    folders = [one for one in entries if isinstance(one, Folder)]
    others = [one for one in entries if isinstance(one, Entry)]
    run = Folder(uri.rstrip("/").rpartition("/")[2], uri, loose)
    return PlaceContents(folders, run, others)


def own_files(tree: Mapping[str, Files], folder: str = "") -> Files:
    """Return the files of a folder, as `stored.Files` has them.

    tree: the files in each folder, by its path.
    """
    directly = tree.get(folder, {})
    if holds_weights(directly):
        return directly
    start = f"{folder}/" if folder else ""
    below = {
        f"{inside}/{name}": replace(file, name=f"{inside}/{name}")
        for path, files in tree.items()
        for name, file in files.items()
        if path.startswith(start)
        and (inside := path.removeprefix(start))
        and "/" not in inside
        and not inside.startswith(".")
    }
    return {**directly, **below}


def _single(uri: str, name: str, beside: Files, layout: RunLayout) -> Folder | Entry:
    """Return an object in the run itself, as a checkpoint if its name is that of one."""
    if parse_file_name(name, layout) is None:
        return Entry(name)
    files = {one: beside[one] for one in (name, *companions(name)) if one in beside}
    at = {one: replace(file, at=uri.rstrip("/")) for one, file in files.items()}
    return Folder(name, f"{uri.rstrip('/')}/{name}", at)


def _folder(uri: str, name: str, tree: Mapping[str, Files], layout: RunLayout) -> Folder | Entry:
    """Return a folder of a run, as a checkpoint if its name is that of one.

    tree: the files in it and in all folders below, by their paths in it.
    """
    directly = tree.get("", {})
    if parse_name(name, layout) is None:
        return Entry(name, [*directly, *{path.partition("/")[0] for path in tree if path}])
    inner = folder_inside(layout)
    start = f"{inner}/" if inner else ""
    below = {
        path.removeprefix(start): files
        for path, files in tree.items()
        if path.startswith(start) and path not in ("", inner)
    }
    near = {path: files for path, files in below.items() if path.count("/") < MOST_LEVELS}
    files = tree.get(inner, {})
    found = model_folders(files, near)
    if len(found) > 1:
        return Entry(name, kind=NO_WEIGHTS, reason=why_none(found))
    if not files and not any(below.values()):
        return Entry(name, kind=NO_WEIGHTS, reason="it is empty")
    inside = "/".join(part for part in (inner, found[0]) if part)
    place = "/".join(part for part in (uri.rstrip("/"), name, inside) if part)
    return Folder(name, place, own_files(tree, inside))
