"""List runs on the Hugging Face Hub.

`hf://owner/name` stands for all branches and tags with a checkpoint's name. If there are none, it
stands for the checkpoints on the main branch: folders (`hub_folders.py`), state dicts of
TransformerLens (`hub_states.py`) or commits (`hub_commits.py`). Others are addressed by

    hf://owner/name@stage1-*            refs that match the pattern
    hf://owner/name@step-*/sub/folder   the same, with the model in a folder of each
    hf://owner/name@branch              the checkpoints on another branch
    hf://owner/name@branch:commits      one for each commit of a branch
    hf://owner/name/sub/folder          those in a folder of the main branch
    hf://datasets/owner/name            a repository of datasets

The address of a checkpoint, `hf://owner/name@<commit>`, always refers to the same bytes.
"""

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from pipeline.checkpoints import hub_cache, hub_commits, hub_folders, hub_source, hub_states
from pipeline.checkpoints.file_trees import own_files
from pipeline.checkpoints.formats import holds_weights
from pipeline.checkpoints.hub_address import Address, parse_address
from pipeline.checkpoints.hub_rows import Ref, directly_in, files_below, folders_in
from pipeline.checkpoints.left_out import NO_WEIGHTS, UNCACHED, UNNAMED, first_names
from pipeline.checkpoints.listing import holds_checkpoints
from pipeline.checkpoints.names import folder_inside, parse_name
from pipeline.checkpoints.nested import MOST_LEVELS, model_folders, why_none
from pipeline.checkpoints.side_by_side import side_by_side
from pipeline.checkpoints.stored import Entry, Files, Folder, PlaceContents
from pipeline.config import RunLayout
from pipeline.errors import CheckpointError, InputError
from pipeline.retrying import status_of

_PATTERN = "*?["


def contents(uri: str, layout: RunLayout) -> PlaceContents:
    """List the checkpoints of a repository, with the files of each.

    Takes one request for all refs, one for the files of the run itself, and one for each commit
    with a checkpoint; refs of other names are not opened. See `hub_folders.folders` and
    `hub_api.history` for what checkpoints within one branch take.
    """
    address = parse_address(uri)
    found = [] if address.is_commit else hub_source.refs(address)
    try:
        head = _head(address, found, layout)
        if head is None:
            inside = _of_refs(uri, address, found, layout)
        else:
            inside = _of_commit(uri, address, head, layout)
    except CheckpointError as error:
        raise InputError(str(error)) from error
    if why := hub_source.why_local(address):
        return _without_uncached(address, inside, why)
    return inside


def files_at(uri: str) -> Files:
    """Return the files of a checkpoint, or of a run."""
    address = of_run(parse_address(uri))
    described = hub_states.files(address) if address.is_state_dict else {}
    # Without a config, the file is of another layout.
    return described if "config.json" in described else hub_folders.files_of(address)


def of_run(address: Address) -> Address:
    """Return the address of the run's own files, which are those of the main branch for refs."""
    if _is_pattern(address):
        return replace(address, ref=None, path=None, commits=False)
    return replace(address, commits=False)


def _head(address: Address, found: Sequence[Ref], layout: RunLayout) -> Address | None:
    """Return the one commit in which an address lies; None for one that stands for several refs.

    Raises InputError for a branch that does not exist.
    """
    if address.ref is None:
        return None
    if address.is_commit:
        return address
    if _is_pattern(address):
        return None
    commit = _commit_of(address.ref, found)
    if commit is None:
        raise InputError(f"{address}: there is no such branch or tag: check the name after @")
    if parse_name(address.ref, layout) is not None and not address.commits:
        return None
    return address.at(commit, address.path)


def _commit_of(name: str, found: Sequence[Ref]) -> str | None:
    return next((one.commit for one in found if one.name == name), None)


def _of_refs(uri: str, address: Address, found: Sequence[Ref], layout: RunLayout) -> PlaceContents:
    """Return the refs with a checkpoint's name, or what is on the main branch if there are none."""
    wanted = [ref for ref in found if fnmatchcase(ref.name, address.ref or "*")]
    named = [ref for ref in wanted if parse_name(ref.name, layout) is not None]
    others = [
        Entry(ref.name, is_ref=True) for ref in wanted if ref not in named and ref.name != "main"
    ]
    main = _commit_of("main", found)
    if main is None:
        folders, absent = _folders(uri, address, named, layout)
        return PlaceContents(folders, str(address), [*others, *absent])
    if not named and address.ref is None:
        on_main = _of_commit(uri, address, address.at(main), layout)
        return replace(on_main, others=[*on_main.others, *others])
    run, beside = _top(address.at(main))
    folders, absent = _folders(uri, address, named, layout)
    if address.ref is None:
        reason = f"a folder on the main branch, beside branches: give {uri}@main for these"
        ignored = [name for name in beside if parse_name(name, layout) is not None]
        absent += [Entry(name, kind=UNNAMED, reason=reason) for name in ignored]
    return PlaceContents(folders, run, [*others, *absent])


def _of_commit(uri: str, address: Address, head: Address, layout: RunLayout) -> PlaceContents:
    """Return the checkpoints that one commit holds, or those in the commits that lead to it."""
    run, _ = _top(head)
    if address.commits:
        return _of_history(uri, address, head, run, layout)
    inside = hub_folders.contents_in(head, layout)
    _refuse_several_stages(uri, [folder.name for folder in inside.folders], layout)
    if inside.folders or head.path is not None:
        return inside
    if folders := hub_states.folders(head, run.files):
        return replace(inside, folders=folders)
    if not address.is_commit and not any(holds_checkpoints(e, layout) for e in inside.others):
        pushed = _of_history(uri, address, head, run, layout)
        if pushed.folders:
            return replace(pushed, others=[*inside.others, *pushed.others])
    return inside


def _of_history(
    uri: str, address: Address, head: Address, run: Folder, layout: RunLayout
) -> PlaceContents:
    named, others = hub_commits.saves(head, layout)
    folders, absent = _folders(uri, address, named, layout)
    return PlaceContents(folders, run, [*others, *absent])


def _top(head: Address) -> tuple[Folder, list[str]]:
    """Return the run's own folder with its files, and the names of the folders in it."""
    rows = hub_source.tree(head, head.path or "")
    files = directly_in(files_below(rows, head.path or ""))
    return Folder(str(head), str(head), files), folders_in(rows, head.path or "")


def _folders(
    uri: str, address: Address, named: Sequence[Ref], layout: RunLayout
) -> tuple[list[Folder], list[Entry]]:
    """Return a folder for each ref or commit, with the model in the address's path of each.

    Those without such a path, or with several models, are returned as entries.
    """
    _refuse_several_stages(uri, [ref.name for ref in named], layout)
    places = {ref: str(address.at(ref.commit, _path_in(ref, address, layout))) for ref in named}
    listed = dict(zip(places, side_by_side(_files_or_none, [*places.values()]), strict=True))
    found = [
        Entry(ref.name, kind=NO_WEIGHTS, reason="it has no such folder")
        if (files := listed[ref]) is None
        else _with_model(Folder(ref.name, places[ref], files))
        for ref in named
    ]
    folders = [one for one in found if isinstance(one, Folder)]
    if named and all(files is None for files in listed.values()):
        path = parse_address(places[named[0]]).path
        raise InputError(
            f"{uri}: none of its {len(named)} checkpoints has a folder {path}: check the path"
        )
    return folders, [one for one in found if isinstance(one, Entry)]


def _path_in(ref: Ref, address: Address, layout: RunLayout) -> str | None:
    """Return the path of the model in a ref, as given in the address or in `names`."""
    # A pattern for branches whose names have a slash gives no folder.
    inner = "" if "/" in ref.name else folder_inside(layout)
    return address.path or inner or None


def _files_or_none(uri: str) -> Files | None:
    """Return the files of a checkpoint; None if its folder does not exist in its commit."""
    try:
        return files_at(uri)
    except CheckpointError as error:
        if parse_address(uri).path is None or status_of(error) != 404:
            raise
        return None


def _with_model(folder: Folder) -> Folder | Entry:
    """Return the folder, or the one below it that holds the model if it holds none itself."""
    address = parse_address(folder.uri)
    if holds_weights(folder.files) or address.is_state_dict:
        return folder
    tree = hub_folders.files_by_folder(address)
    below = {path: files for path, files in tree.items() if path.count("/") < MOST_LEVELS}
    found = model_folders(below.pop("", {}), below)
    if len(found) > 1:
        return Entry(folder.name, kind=NO_WEIGHTS, reason=why_none(found))
    if not found[0]:
        return folder
    place = str(address.at(str(address.ref), address.below(found[0])))
    return Folder(folder.name, place, own_files(tree, found[0]))


def _without_uncached(address: Address, inside: PlaceContents, why: str) -> PlaceContents:
    """Return the contents without checkpoints whose weights the local cache does not hold.

    why: it is read, which is added to the notes. Raises InputError, or OSError if the Hub may
    answer later, if it holds the weights of no checkpoint.
    """
    absent = [one for one in inside.folders if not any(map(hub_cache.may_be_weights, one.files))]
    here = [one for one in inside.folders if one not in absent]
    if absent and not here:
        names = [one.name for one in absent]
        raise (InputError if hub_cache.is_offline() else OSError)(
            f"{address}: the weights of its {len(names)} checkpoints ({first_names(names)}) were "
            f"not downloaded; {why}; download them where the Hub can be reached"
        )
    reason = "its weights were not downloaded"
    left_out = [Entry(one.name, kind=UNCACHED, reason=reason) for one in absent]
    others = [*inside.others, *left_out]
    return replace(inside, folders=here, others=others, notes=(*inside.notes, why))


def _is_pattern(address: Address) -> bool:
    return address.ref is not None and any(mark in address.ref for mark in _PATTERN)


def _refuse_several_stages(uri: str, names: Sequence[str], layout: RunLayout) -> None:
    stages = sorted({parsed.stage for name in names if (parsed := parse_name(name, layout))})
    if len(stages) > 1:
        raise InputError(
            f"{uri}: holds checkpoints of {len(stages)} stages ({', '.join(stages)}), each of "
            f"which counts its own steps: choose one, such as {uri}@{stages[-1]}-*"
        )
