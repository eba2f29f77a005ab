"""Find the base models of adapters: as given, beside the run, or where the adapter says.

An adapter's `base_model_name_or_path` is the folder or the name on the Hub from which its training
read the model. Its weights, config and tokenizer become files of the checkpoint, which are
elsewhere, so that the digest of a checkpoint is of both.
"""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.checkpoints.contents import format_of_files, read_small
from pipeline.checkpoints.formats.adapter import weights
from pipeline.checkpoints.hub_address import parse_address
from pipeline.checkpoints.hugging_face_cache import is_repository, snapshots_by_ref
from pipeline.checkpoints.layouts import ADAPTER
from pipeline.checkpoints.places import folder_of, place_of, remote_place_of
from pipeline.checkpoints.stored import Files, Folder, StoredFile
from pipeline.checkpoints.weight_files import weight_parts
from pipeline.config import RunLayout
from pipeline.errors import CheckpointError, InputError, first_line
from pipeline.outside import json_object

# Small files of a model that an adapter's folder may lack.
_SMALL = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json",
)  # fmt: skip
_ON_THE_HUB = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def with_bases(
    folders: Sequence[Folder], run: Folder | str, layout: RunLayout
) -> tuple[list[Folder], list[str]]:
    """Return the folders, those of adapters with the files of their base models, and notes.

    An adapter whose base model is not found stays as it is, and cannot be read. Raises InputError
    if there is no model at the address of the layout's `base`.
    """
    outer = run if isinstance(run, str) else run.uri
    known: dict[str, Files | str] = {}
    used: Counter[str] = Counter()
    completed: list[Folder] = []
    for folder in folders:
        address = _address(folder, outer, layout) if _is_adapter(folder) else None
        if address is not None:
            if address not in known:
                known[address] = _files_of(address, is_given=layout.base is not None)
            used[address] += 1
            if not isinstance(found := known[address], str):
                folder = replace(folder, files={**found, **folder.files})
        completed.append(folder)
    notes = [_note(address, count, known[address]) for address, count in used.items()]
    if beside := sum(map(_has_whole_model, folders)):
        notes.append(
            f"adapters beside a whole model are not merged into it (checkpoints: {beside:,})"
        )
    return completed, notes


def _note(address: str, count: int, found: Files | str) -> str:
    if isinstance(found, str):
        return f"the base model of adapters cannot be read: {found} (checkpoints: {count:,})"
    return f"adapters are merged into the model in {address} (checkpoints: {count:,})"


def _is_adapter(folder: Folder) -> bool:
    return bool(weights(folder.files)) and format_of_files(folder.files) is not None


def _has_whole_model(folder: Folder) -> bool:
    return bool(weights(folder.files)) and format_of_files(folder.files) is None


def _address(folder: Folder, run: str, layout: RunLayout) -> str | None:
    """Return the address of an adapter's base model; None if it is not found."""
    return layout.base or _said(folder, run)


def _said(folder: Folder, run: str) -> str | None:
    """Return the address of the base model that an adapter names; None if it is not found."""
    try:
        content = read_small(place_of(folder.uri), folder, ADAPTER)
        said = json_object(content, f"{folder.uri}/{ADAPTER}", CheckpointError)
    except CheckpointError:
        return None  # ends the checkpoint when it is read
    name, revision = said.get("base_model_name_or_path"), said.get("revision")
    if not isinstance(name, str) or not name or "\0" in name:
        return None
    # A remote run says nothing of folders on this machine.
    if remote_place_of(folder.uri) is None:
        for path in (Path(run) / name, Path(name)):
            if path.is_absolute() and (path / "config.json").is_file():
                return str(path)
    if not _ON_THE_HUB.fullmatch(name):
        return None
    return f"hf://{name}" + (f"@{revision}" if isinstance(revision, str) else "")


def _files_of(address: str, is_given: bool) -> Files | str:
    """Return the files of a base model, each with where it is; the reason if it cannot be read.

    Raises InputError with the reason for an address that was given.
    """
    try:
        at = _pinned(address)
        folder = folder_of(at)
        parts = weight_parts(place_of(at), folder)
    except (CheckpointError, InputError, OSError) as error:
        reason = f"{address}: {first_line(error).removeprefix(f'{address}: ')}"
        if is_given:
            raise InputError(f"base: {reason}") from error
        return reason
    small = [folder.files[name] for name in _SMALL if name in folder.files]
    found: list[StoredFile] = [*parts, *small]
    return {file.name: replace(file, at=at) for file in found}


def _pinned(address: str) -> str:
    """Return an address that always refers to the same bytes, if its storage has such addresses."""
    if "://" not in address:
        return _real_folder(Path(address))
    if not address.startswith("hf://"):
        return address.rstrip("/")
    from pipeline.checkpoints.hub_source import refs  # needs huggingface_hub

    asked = parse_address(address)
    if asked.is_commit:
        return str(asked)
    commits = {ref.name: ref.commit for ref in refs(asked)}
    if (commit := commits.get(asked.ref or "main")) is None:
        raise InputError(f"{address}: there is no such branch or tag")
    return str(asked.at(commit, asked.path))


def _real_folder(folder: Path) -> str:
    """Return a model's folder on this machine without links; of a Hugging Face cache, a snapshot's.

    Raises InputError if there is none.
    """
    if is_repository(folder):
        snapshots = snapshots_by_ref(folder)
        if "main" not in snapshots:
            raise InputError(f"{folder}: has no snapshot of the main branch: give a snapshot's")
        return str(snapshots["main"])
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    # The files of a snapshot are links within its repository, to which a link may lead.
    return os.path.realpath(folder) if folder.is_symlink() else str(folder)
