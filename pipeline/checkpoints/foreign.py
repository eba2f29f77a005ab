"""Runs as grokking research saves them, converted once to a folder of ordinary checkpoints.

A run is one file that holds many state dicts, one that holds a single one, or a folder of such
files; see `pickled.py` for what is read, `grokking.py` and `transformerlens.py` for whose weights.
The conversion lies in the cache folder, under a name that the files' state gives.
"""

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from pipeline.checkpoints import grokking, transformerlens
from pipeline.checkpoints.cache import cache_folder
from pipeline.checkpoints.digests import local_state
from pipeline.checkpoints.names import parse_name
from pipeline.checkpoints.pickled import SUFFIXES, Saved, read_saved, step_in_name
from pipeline.errors import CheckpointError, InputError
from pipeline.models.floats import refuse_unreadable

TABLE_FILE = "table.json"

_VERSION = 1  # raised when the conversion changes

State = Mapping[str, Tensor]
Convert = Callable[[State, Mapping[str, Any]], tuple[dict[str, Any], dict[str, Tensor]]]

_READERS: tuple[tuple[Callable[[State], bool], Convert], ...] = (
    (grokking.is_grokking, grokking.convert),
    (transformerlens.is_transformerlens, transformerlens.convert),
)


def ordinary_run(uri: str) -> Path:
    """The local folder of a run in the ordinary layout: `uri` itself, or its conversion.

    Raises InputError, naming the file, for one that cannot be read.
    """
    path = Path(uri)
    files = _foreign_files(path)
    if not files:
        return path
    states = "\n".join([str(_VERSION), *(local_state(file) for file in files)])
    kept = cache_folder() / "converted" / hashlib.sha256(states.encode()).hexdigest()[:32]
    if not kept.is_dir():
        _convert(files, kept)
    return kept


def table_facts(folder: str | Path) -> dict[str, Any]:
    """What a converted run says of its table and split, as keys of a table input; {} if nothing.

    `train_pairs`: the rows a * p + b that were trained on, where a file lists them.
    """
    try:
        return json.loads((Path(folder) / TABLE_FILE).read_text(encoding="utf-8"))
    except OSError:
        return {}


def _foreign_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix in SUFFIXES else []
    if not path.is_dir() or any(parse_name(inside.name) for inside in path.iterdir()):
        return []
    return sorted(file for file in path.iterdir() if step_in_name(file) is not None)


def _convert(files: list[Path], kept: Path) -> None:
    draft = kept.with_name(uuid.uuid4().hex)
    try:
        saved = _merged(files)
        for step, state in sorted(saved.states.items()):
            _write(draft / f"step-{step}", state, saved.config, files[0].parent)
        facts = _table(saved)
        (draft / TABLE_FILE).write_text(json.dumps(facts), encoding="utf-8")
        draft.rename(kept)
    except OSError:
        if not kept.is_dir():  # another process may have been faster
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _merged(files: list[Path]) -> Saved:
    """All files of one run. Where two hold one step, init.pth and the numbered file count."""
    order = sorted(files, key=lambda file: (file.stem != "final", file.stem == "init"))
    states, config, train_pairs = {}, {}, None
    for file in order:
        one = read_saved(file)
        states |= one.states
        config |= one.config
        train_pairs = one.train_pairs or train_pairs
    return Saved(states, config, train_pairs)


def _reader_of(state: State, place: str) -> Convert:
    for is_theirs, convert in _READERS:
        if is_theirs(state):
            return convert
    raise InputError(
        f"{place}: holds no weights of a known format; expected those of the grokking paper's "
        "code or of TransformerLens"
    )


def _write(folder: Path, state: State, config: Mapping[str, Any], source: Path) -> None:
    """One checkpoint in the ordinary layout."""
    place = f"{source}, {folder.name}"
    try:
        refuse_unreadable(
            {name: value for name, value in state.items() if isinstance(value, Tensor)}, place
        )
        described, weights = _reader_of(state, place)(state, config)
    except KeyError as error:
        raise InputError(f"{place}: the tensor {error} is missing: save the whole model") from error
    except (InputError, CheckpointError) as error:
        raise InputError(str(error) if place in str(error) else f"{place}: {error}") from error
    folder.mkdir(parents=True)
    whole = {name: tensor.contiguous() for name, tensor in weights.items()}
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
    described |= transformerlens.AS_ORGANISM
    (folder / "config.json").write_text(json.dumps(described, indent=2), encoding="utf-8")


def _table(saved: Saved) -> dict[str, Any]:
    state = next(iter(saved.states.values()))
    axis = 1 if grokking.is_grokking(state) else 0
    facts = {"p": state["embed.W_E"].shape[axis] - 1} | grokking.table(saved.config)
    if saved.train_pairs is not None:
        facts["train_pairs"] = saved.train_pairs
    return facts
