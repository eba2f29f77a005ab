"""Convert runs in the formats of grokking research to a folder of ordinary checkpoints, once.

A run is a file with one or many state dicts, or a folder of such files. `pickled.py` reads the
files; `grokking.py` and `transformerlens.py` convert the weights. The conversion is kept in the
cache folder, under a hash of the files' states and of the analysis's `model`. A file that cannot be
read, but whose name gives its step, becomes a checkpoint without weights whose folder contains the
reason; if no file can be read, the run is refused.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from pipeline.checkpoints import grokking, transformerlens
from pipeline.checkpoints.cache import cache_folder
from pipeline.checkpoints.digests import local_state
from pipeline.checkpoints.files import REFUSAL
from pipeline.checkpoints.floats import refuse_unreadable
from pipeline.checkpoints.grokking import is_grokking
from pipeline.checkpoints.names import parse_name
from pipeline.checkpoints.pickled import (
    SUFFIXES,
    Saved,
    State,
    found_in,
    is_known,
    read_saved,
    same_tensors,
    step_in_name,
    unknown_format,
)
from pipeline.errors import CheckpointError, InputError, first_line
from pipeline.outside import content_of, parsed_json, reading
from pipeline.writing import whole_folder

TABLE_FILE = "ontogeny-table.json"
_NOTES_FILE = "ontogeny-notes.json"

# bytes: the pairs of a table of 2,000 residues, and the losses of a million steps
_LARGEST_FACTS = 64 * 2**20

_VERSION = 2  # raised when the conversion changes

Given = Mapping[str, Any]


def ordinary_run(uri: str, model: Given | None = None) -> Path:
    """Return the local folder of a run in the ordinary layout: `uri` itself, or its conversion.

    model: config fields that the files lack, see `pipeline.config.SavedModel`. Raises InputError,
    naming the file, if none can be read, if two have the same step, or if `model` is given and
    there is nothing to convert.
    """
    path = Path(uri)
    files = _foreign_files(path)
    if not files:
        if model and path.exists():
            raise InputError(
                f"{uri}: `model` is given for .pth and .pt files, and this run has a config.json "
                "for each checkpoint: leave `model` out"
            )
        return path
    given, before = dict(model or {}), [local_state(file) for file in files]
    states = "\n".join([json.dumps([_VERSION, given], sort_keys=True), *before])
    kept = cache_folder() / "converted" / hashlib.sha256(states.encode()).hexdigest()[:32]
    if not kept.is_dir():
        _convert(path, files, given, kept)
        # A file that changed meanwhile would leave its conversion under the hash of another state.
        if [local_state(file) for file in files] != before:
            shutil.rmtree(kept, ignore_errors=True)
            raise InputError(f"{uri}: was changed while it was read: wait until it is written")
    return kept


def converted_uri(uri: str, model: Given | None = None) -> str:
    """Return the address that a run's checkpoints are read from: its conversion, or `uri` itself.

    Raises InputError as `ordinary_run` does, and if `model` is given for a remote run.
    """
    if "://" not in uri:
        return str(ordinary_run(uri, model)) if _foreign_files(Path(uri)) or model else uri
    if model:
        raise InputError(
            f"{uri}: `model` is given for local .pth and .pt files: leave it out, or copy the "
            "files here"
        )
    return uri


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
    notes = _read(folder, _NOTES_FILE) or []
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


def _foreign_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix in SUFFIXES else []
    if not path.is_dir() or any(parse_name(inside.name) for inside in path.iterdir()):
        return []
    files = sorted(file for file in path.iterdir() if step_in_name(file) is not None)
    is_checkpoint = (path / "config.json").exists() or parse_name(path.name) is not None
    if not files and not is_checkpoint and (others := _others(path)):
        raise InputError(
            f"{path}: found {_listed(others)}, whose names do not give their step: "
            f"rename each to its step, as in 1000{Path(others[0]).suffix}, or give one file that "
            "contains its step"
        )
    return files


def _others(path: Path) -> list[str]:
    """Return the names of files that may be checkpoints by their suffix, but give no step."""
    if not path.is_dir():
        return []
    return sorted(
        file.name
        for file in path.iterdir()
        if file.suffix in SUFFIXES and file.is_file() and step_in_name(file) is None
    )


@dataclass
class _Run:
    """The contents of the files of one run.

    places: by step, the file, and which of its state dicts. refused: by step, the reason why the
    file of that step cannot be read. again: places with the same step and weights as another one.
    """

    states: dict[int, State] = field(default_factory=dict)
    configs: dict[int, dict[str, Any]] = field(default_factory=dict)
    places: dict[int, str] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    saved: list[Saved] = field(default_factory=list)
    again: list[str] = field(default_factory=list)

    def add(self, state: State, config: dict[str, Any]) -> None:
        """Add a checkpoint. Raises InputError if its step has other weights already."""
        other = self.states.get(state.step)
        if other is not None and same_tensors(other.tensors, state.tensors):
            self.again.append(state.place)
            return
        self._claim(state.step, state.place)
        self.states[state.step], self.configs[state.step] = state, config

    def refuse(self, step: int, place: str, reason: str) -> None:
        """Add a checkpoint that cannot be read, with the reason."""
        self._claim(step, place)
        self.refused[step] = reason

    def config_of(self, step: int) -> dict[str, Any]:
        """Return the config in the step's file, or else the one that all other files share."""
        others = [config for config in self.configs.values() if config]
        is_shared = bool(others) and all(one == others[0] for one in others)
        return self.configs[step] or (others[0] if is_shared else {})

    def _claim(self, step: int, place: str) -> None:
        if (other := self.places.setdefault(step, place)) != place:
            raise InputError(
                f"both {other} and {place} hold step {step}, with different weights: keep one"
            )


def _convert(path: Path, files: list[Path], given: Given, kept: Path) -> None:
    with whole_folder(kept) as draft:
        run = _read_all(files)
        _write_all(draft, run, given, list(_left_out(path, run)))


def _read_all(files: list[Path]) -> _Run:
    """Read all files of one run. Raises InputError for one without a step and for equal steps."""
    run = _Run()
    for file in files:
        named = step_in_name(file)
        step = 0 if named == "init" else named
        try:
            saved = read_saved(file)
        except InputError as error:
            if not isinstance(step, int):
                raise
            run.refuse(step, str(file), str(error))
            continue
        run.saved.append(saved)
        for state in saved.states:
            run.add(state, saved.config)
    return run


def _left_out(path: Path, run: _Run) -> Iterator[str]:
    """Yield a sentence for each reason for which files were left out."""
    if others := _others(path):
        yield f"left out, since their names do not give their step: {_listed(others)}"
    if run.again:
        yield f"left out, since another file of that step has their weights: {_listed(run.again)}"
    if beside := [one for saved in run.saved for one in saved.left_out]:
        yield f"left out, since their step is unknown: {_listed(beside)}"


def _listed(names: list[str]) -> str:
    return found_in(dict.fromkeys(names))


def _write_all(draft: Path, run: _Run, given: Given, notes: list[str]) -> None:
    """Write the run in the ordinary layout. Raises InputError if no checkpoint can be read."""
    refused = run.refused
    config: bytes | None = None
    for step, state in sorted(run.states.items()):
        try:
            converted = _converted(state, run.config_of(step), given)
        except InputError as error:
            refused[step] = str(error)
            continue
        config = _write(draft / f"step-{step}", converted)
        notes += [note for note in converted.notes if note not in notes]
    if config is None:
        more = f" ({len(refused) - 1} more are refused)" if len(refused) > 1 else ""
        raise InputError(f"{refused[min(refused)]}{more}")
    for step, reason in refused.items():
        _write_refusal(draft / f"step-{step}", config, reason)
    (draft / TABLE_FILE).write_text(json.dumps(_table(run)), encoding="utf-8")
    (draft / _NOTES_FILE).write_text(json.dumps(notes), encoding="utf-8")


def _converted(state: State, config: Mapping[str, Any], given: Given) -> transformerlens.Converted:
    if not is_known(state.tensors):
        raise unknown_format(state.place, state.tensors)
    convert = grokking.convert if is_grokking(state.tensors) else transformerlens.convert
    try:
        with reading(state.place, InputError, passing=()):
            refuse_unreadable(state.tensors, state.place)
            return convert(state.tensors, config, given)
    except (CheckpointError, InputError) as error:
        message = str(error)
        said = message if message.startswith(state.place) else f"{state.place}: {message}"
        raise InputError(said) from error


def _write(folder: Path, converted: transformerlens.Converted) -> bytes:
    """Write one checkpoint in the ordinary layout and return its config.json."""
    folder.mkdir(parents=True)
    # Copies, since safetensors refuses tensors that share memory, such as tied ones and views.
    whole = {name: tensor.clone().contiguous() for name, tensor in converted.weights.items()}
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
    described = converted.config | transformerlens.AS_ORGANISM
    config = json.dumps(described, indent=2).encode()
    (folder / "config.json").write_bytes(config)
    return config


def _write_refusal(folder: Path, config: bytes, reason: str) -> None:
    """Write a checkpoint that cannot be read: the config of another one, and the reason."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(config)
    (folder / REFUSAL).write_text(reason, encoding="utf-8")


def _table(run: _Run) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for saved in run.saved:
        facts |= grokking.table(saved.config)
    if not all(is_grokking(state.tensors) for state in run.states.values()):
        facts.pop("split_generator", None)  # known for the code of Nanda et al. only
    for pairs in (saved.train_pairs for saved in run.saved if saved.train_pairs is not None):
        facts["train_pairs"] = pairs
    losses = {step: loss for saved in run.saved for step, loss in saved.train_losses.items()}
    return {**dict(_modulus(run)), **facts} | ({"train_losses": losses} if losses else {})


def _modulus(run: _Run) -> Iterator[tuple[str, int]]:
    """Yield ("p", p) for models that read three tokens: two residues and '='."""
    for state in (one.tensors for one in run.states.values() if one.step not in run.refused):
        if len(state["pos_embed.W_pos"]) == 3:
            yield "p", state["embed.W_E"].shape[1 if is_grokking(state) else 0] - 1
            return
