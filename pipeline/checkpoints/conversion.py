"""Convert the state dicts in `.pth` files to a folder of ordinary checkpoints.

`pth_files.py` reads the files; `grokking.py` and `transformerlens.py` convert the weights, after
`own_names.py` has renamed those of one's own models. A file
that cannot be read, but whose name gives its step, becomes a checkpoint without weights whose
folder contains the reason; if no file can be read, the run is refused.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from pipeline.checkpoints import grokking, hooked_config, own_names, rotary, transformerlens
from pipeline.checkpoints.files import NOTES_FILE, REFUSAL, TABLE_FILE
from pipeline.checkpoints.floats import refuse_unreadable
from pipeline.checkpoints.grokking import is_grokking
from pipeline.checkpoints.names import is_checkpoint_file
from pipeline.checkpoints.pth_files import (
    Saved,
    State,
    read_saved,
    same_tensors,
)
from pipeline.checkpoints.pth_names import found_in, state_dicts_in, step_in_any_name
from pipeline.config import RunLayout
from pipeline.errors import CheckpointError, InputError
from pipeline.outside import reading
from pipeline.writing import whole_folder

Given = Mapping[str, Any]


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


def convert(
    path: Path, files: list[Path], given: Given, kept: Path, layout: RunLayout | None = None
) -> None:
    """Write the folder `kept`, whole or not at all: the conversion of the files of the run `path`.

    given: fields of the models' configs that the files lack. layout: its `names` give the steps.
    Raises InputError, naming the file, if none can be read, or if two have the same step; OSError
    and MemoryError, which may pass.
    """
    with whole_folder(kept) as draft:
        run = _read_all(files, own_names.is_own(given), layout)
        _write_all(draft, run, given, list(_left_out(path, files, run)))


def _read_all(files: list[Path], has_own_names: bool, layout: RunLayout | None) -> _Run:
    """Read all files of one run. Raises InputError for one without a step and for equal steps."""
    run = _Run()
    for file in files:
        named = step_in_any_name(file, layout)
        step = 0 if named == "init" else named
        try:
            saved = read_saved(file, has_own_names, layout)
        except InputError as error:
            if not isinstance(step, int):
                raise
            run.refuse(step, str(file), str(error))
            continue
        run.saved.append(saved)
        for state in saved.states:
            run.add(state, saved.config)
    return run


def _left_out(path: Path, files: Sequence[Path], run: _Run) -> Iterator[str]:
    """Yield a sentence for each reason for which files were left out."""
    others = [file for file in state_dicts_in(path) if file not in files]
    worded = [file.name for file in others if is_checkpoint_file(file.name)]
    if unnamed := [file.name for file in others if file.name not in worded]:
        yield f"left out, since their names do not give their step: {found_in(unnamed)}"
    if worded:
        yield f"left out, since the others have names of another kind: {found_in(worded)}"
    if run.again:
        yield f"left out, since another file of that step has their weights: {found_in(run.again)}"
    if beside := [one for saved in run.saved for one in saved.left_out]:
        yield f"left out, since their step is unknown: {found_in(beside)}"
    if averages := [one for saved in run.saved for one in saved.averages]:
        yield f"left out, since they are averages of the weights (EMA): {found_in(averages)}"


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
    (draft / TABLE_FILE).write_text(
        json.dumps(_table(run, own_names.is_own(given))), encoding="utf-8"
    )
    (draft / NOTES_FILE).write_text(json.dumps(notes), encoding="utf-8")


def _converted(state: State, config: Mapping[str, Any], given: Given) -> transformerlens.Converted:
    try:
        with reading(state.place, InputError, passing=(OSError, MemoryError)):
            refuse_unreadable(state.tensors, state.place)
            if own_names.is_own(given):
                return _converted_own(state.tensors, config, given)
            own_names.refuse_without_names(given)
            return _convert(state.tensors, config, own_names.known_fields(given))
    except (CheckpointError, InputError) as error:
        message = str(error)
        said = message if message.startswith(state.place) else f"{state.place}: {message}"
        raise InputError(said) from error


def _convert(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], given: Given
) -> transformerlens.Converted:
    """Convert a model with the names of one of the known formats."""
    if is_grokking(tensors):
        return grokking.convert(tensors, config, given)
    is_rotary = rotary.is_rotary(tensors, config, given)
    convert = rotary.convert if is_rotary else transformerlens.convert
    return convert(tensors, config, given)


def _converted_own(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], given: Given
) -> transformerlens.Converted:
    """Convert a model with the names that the analysis gives."""
    config = own_names.known_config(config)
    renamed = own_names.renamed(tensors, config, given)
    converted = _convert(renamed, config, own_names.known_fields(given))
    return replace(converted, notes=(*converted.notes, *own_names.notes(renamed, given)))


def _write(folder: Path, converted: transformerlens.Converted) -> bytes:
    """Write one checkpoint in the ordinary layout and return its config.json."""
    folder.mkdir(parents=True)
    # Copies, since safetensors refuses tensors that share memory, such as tied ones and views.
    whole = {name: tensor.clone().contiguous() for name, tensor in converted.weights.items()}
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
    described = hooked_config.AS_ORGANISM | converted.config
    config = json.dumps(described, indent=2).encode()
    (folder / "config.json").write_bytes(config)
    return config


def _write_refusal(folder: Path, config: bytes, reason: str) -> None:
    """Write a checkpoint that cannot be read: the config of another one, and the reason."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(config)
    (folder / REFUSAL).write_text(reason, encoding="utf-8")


def _table(run: _Run, has_own_names: bool) -> dict[str, Any]:
    """Return the facts on a table of two operands that the files of a run hold, or show."""
    facts: dict[str, Any] = {}
    for saved in run.saved:
        facts |= grokking.table(saved.config)
    if has_own_names or not all(is_grokking(state.tensors) for state in run.states.values()):
        facts.pop("split_generator", None)  # known for the code of Nanda et al. only
    for pairs in (saved.train_pairs for saved in run.saved if saved.train_pairs is not None):
        facts["train_pairs"] = pairs
    losses = {step: loss for saved in run.saved for step, loss in saved.train_losses.items()}
    # The tokens of one's own model may be others than the residues and '='.
    modulus = {} if has_own_names else dict(_modulus(run))
    return {**modulus, **facts} | ({"train_losses": losses} if losses else {})


def _modulus(run: _Run) -> Iterator[tuple[str, int]]:
    """Yield ("p", p) for models that read three tokens: two residues and '='."""
    for state in (one.tensors for one in run.states.values() if one.step not in run.refused):
        # Models with rotary positions have no such matrix, whatever their longest input.
        if len(state.get("pos_embed.W_pos", ())) == 3:
            yield "p", state["embed.W_E"].shape[1 if is_grokking(state) else 0] - 1
            return
