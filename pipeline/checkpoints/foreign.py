"""Recognise runs in the formats of grokking research, and have them converted, once.

A run is a file with one or many state dicts, or a folder of such files. `conversion.py` converts it
to a folder of ordinary checkpoints, which is kept in the cache folder, under a hash of the files'
states and of the analysis's `model`.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.checkpoints.archives import mentions
from pipeline.checkpoints.cache import cache_folder
from pipeline.checkpoints.digests import local_state
from pipeline.checkpoints.files import NOTES_FILE, TABLE_FILE, is_hugging_face
from pipeline.checkpoints.formats.single_file import step_inside
from pipeline.checkpoints.names import parse_name
from pipeline.checkpoints.pth_names import (
    SUFFIXES,
    found_in,
    step_in_any_name,
    step_in_name,
    without_step,
)
from pipeline.config import RunLayout
from pipeline.errors import CheckpointError, InputError, first_line
from pipeline.outside import content_of, opened, parsed_json

# bytes: the pairs of a table of 2,000 residues, and the losses of a million steps
_LARGEST_FACTS = 64 * 2**20

_VERSION = 3  # raised when the conversion changes

Given = Mapping[str, Any]


def ordinary_run(uri: str, model: Given | None = None, layout: RunLayout | None = None) -> Path:
    """Return the local folder of a run in the ordinary layout: `uri` itself, or its conversion.

    model: config fields that the files lack, see `pipeline.config.SavedModel`. layout: its `names`
    give the steps of the files, if `model` is given. Raises OSError and MemoryError as they are,
    after which another attempt may succeed, and nothing is kept of this one. Raises InputError,
    naming the file, if none can be read, if two have the same step, or if `model` is given and
    there is nothing to convert.
    """
    path = Path(uri)
    layout = layout if layout is not None and model else RunLayout()
    files = _named_files(path, layout) if layout.names else _foreign_files(path, bool(model))
    if not files:
        if model and path.exists():
            raise without_use(uri)
        return path
    given, before = dict(model or {}), [local_state(file) for file in files]
    facts = [_VERSION, given, *([layout.names] if layout.names else [])]
    states = "\n".join([json.dumps(facts, sort_keys=True), *before])
    kept = cache_folder() / "converted" / hashlib.sha256(states.encode()).hexdigest()[:32]
    if not kept.is_dir():
        from pipeline.checkpoints.conversion import convert  # needs torch

        convert(path, files, given, kept, layout)
        # A file that changed meanwhile would leave its conversion under the hash of another state.
        if [local_state(file) for file in files] != before:
            shutil.rmtree(kept, ignore_errors=True)
            raise InputError(f"{uri}: was changed while it was read: wait until it is written")
    return kept


def is_foreign(uri: str) -> bool:
    """Return whether a local run must be converted, by the names of its files."""
    return bool(_foreign_files(Path(uri), has_model=False))


def without_use(uri: str) -> InputError:
    """Return the error for `model` of an analysis whose run needs no conversion."""
    return InputError(
        f"{uri}: `model` is for a folder of .pth or .pt files, or one of them, and this is none: "
        "leave `model` out"
    )


def table_facts(folder: str | Path) -> dict[str, Any]:
    """Return the table and split of a converted run, as keys of a table input; {} if unknown.

    `train_pairs`: the rows a * p + b that were trained on, if a file lists them. `train_losses`:
    the losses (nats) on them that the files recorded, by step.
    """
    facts = _read(folder, TABLE_FILE) or {}
    if not isinstance(facts, dict):
        raise InputError(f"{Path(folder) / TABLE_FILE}: holds no JSON object: remove it")
    return facts


def is_converted(folder: str | Path) -> bool:
    """Return whether a folder is the conversion of a run in another format."""
    return (Path(folder) / TABLE_FILE).is_file()


def conversion_notes(folder: str | Path) -> list[str]:
    """Return sentences on what was left out of a converted run, and on what was assumed of it."""
    notes = _read(folder, NOTES_FILE) or []
    return [str(note) for note in notes] if isinstance(notes, list) else []


def _read(folder: str | Path, name: str) -> Any:
    file = Path(folder) / name
    if not file.is_file():
        return None
    try:
        return parsed_json(content_of(file, InputError, _LARGEST_FACTS), finite=False)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file}: is not valid JSON ({first_line(error)}): remove it") from error


def _named_files(path: Path, layout: RunLayout) -> list[Path]:
    """Return the files of a run with the names that the layout gives."""
    every = sorted(path.iterdir()) if path.is_dir() else []
    files = [file for file in every if step_in_any_name(file, layout) is not None]
    if not files and (others := [file.name for file in every if file.suffix in SUFFIXES]):
        raise InputError(
            f"{path}: found {found_in(others)}, expected {layout.names!r}, the given `names`: "
            "change `names`"
        )
    return files


def _foreign_files(path: Path, has_model: bool) -> list[Path]:
    """Return the files of a run to be converted, [] if there are none.

    has_model: whether the analysis describes the model. Otherwise files with a word before their
    step, such as ckpt_1000.pt, are of a known format or left to other readers.
    """
    if path.is_file():
        return [path] if path.suffix in SUFFIXES else []
    if not path.is_dir() or any(parse_name(inside.name) for inside in path.iterdir()):
        return []
    files = sorted(file for file in path.iterdir() if step_in_name(file) is not None)
    worded = sorted(file for file in path.iterdir() if step_in_any_name(file) is not None)
    # Three of them, as one may be damaged.
    some = {worded[at] for at in (0, len(worded) // 2, -1)} if worded else set[Path]()
    if worded and (has_model or (not files and any(map(_has_known_names, some)))):
        return worded
    is_checkpoint = (path / "config.json").exists() or parse_name(path.name) is not None
    if not files and not is_checkpoint and (others := without_step(path)):
        # Such files may also lie beside a folder with the checkpoints, or beside other models.
        if any(_may_hold_models(inside) for inside in path.iterdir()) or _state_steps(path, others):
            return []
        raise InputError(
            f"{path}: found {found_in(others)}, whose names do not give their step: "
            f"rename each to its step, as in ckpt_1000{Path(others[0]).suffix}, or list them in a "
            "CSV file with the columns step and address"
        )
    return files


def _state_steps(path: Path, names: Sequence[str]) -> bool:
    """Return whether one of the files is a trainer's that states its step, as nanoGPT's ckpt.pt."""
    from pipeline.checkpoints.torch_files import saved_file  # needs torch

    for name in names:
        with suppress(CheckpointError), saved_file(path / name) as file:  # others may be damaged
            if step_inside(file.content) is not None:
                return True
    return False


def _may_hold_models(path: Path) -> bool:
    """Return whether a folder holds weights, or an entry with the name of a checkpoint."""
    if not path.is_dir() or not os.access(path, os.R_OK | os.X_OK):
        return False
    names = [inside.name for inside in path.iterdir()]
    return is_hugging_face(names) or any(map(parse_name, names))


def _has_known_names(file: Path) -> bool:
    """Return whether the tensors of a file have TransformerLens' names, without reading them.

    Errors of the storage (OSError) pass.
    """
    try:
        with opened(file, InputError) as stream:
            return mentions(stream, b"embed.W_E")
    except InputError:  # no file with content of its own
        return False
