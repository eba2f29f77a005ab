"""The loss history, and the number of tokens, in the trainer_state.json of a Trainer."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.contents import read_small
from pipeline.checkpoints.places import listed_folder, place_of
from pipeline.checkpoints.stored import Folder, Place
from pipeline.errors import CheckpointError
from pipeline.outside import is_whole, json_object, parsed_json

FILE = "trainer_state.json"
# What is read of each entry. All other keys are named in `left_out`.
FIELDS = ("loss", "eval_loss", "learning_rate", "grad_norm")
_LABELS = ("step", "epoch")


@dataclass(frozen=True)
class TrainerLog:
    """A history: by field, the number at each step; NaN where none was logged, or no finite one.

    steps: ascending, each once. source: the file. left_out: keys of entries that are not read.
    """

    source: str
    steps: Sequence[int]
    values: Mapping[str, Sequence[float]]
    left_out: Sequence[str]


def read_trainer_log(checkpoint: Checkpoint) -> TrainerLog | None:
    """Return the history up to a checkpoint; None where it has no trainer_state.json, or no entry.

    Where several entries have the same step, as after a resumed training, the last one that has a
    field gives its number. Raises CheckpointError, naming the file, if it is not sound.
    """
    folder = listed_folder(checkpoint)
    if FILE not in folder.files:
        return None
    where = f"{folder.uri}/{FILE}"
    content = read_small(place_of(folder.uri), folder, FILE)
    # Losses and norms may well be infinite or NaN, and so may any metric of a user's own.
    state = json_object(content, where, CheckpointError, infinite=("log_history", "best_metric"))
    history = state.get("log_history") or []
    if not isinstance(history, list) or not all(isinstance(one, dict) for one in history):
        raise CheckpointError(f"{where}: log_history is no list of objects: restore the file")
    return _gathered(where, history)


def tokens_in_trainer_state(place: Place, folder: Folder) -> int | None:
    """Return the number of training tokens that a Trainer counted; None if it did not."""
    if FILE not in folder.files:
        return None
    try:
        # Losses and norms that a Trainer logged may well be NaN.
        state = parsed_json(read_small(place, folder, FILE), finite=False)
    except (ValueError, OSError, CheckpointError):
        return None
    tokens = state.get("num_input_tokens_seen") if isinstance(state, dict) else None
    if isinstance(tokens, float) and tokens.is_integer():
        tokens = int(tokens)
    return tokens if is_whole(tokens, least=1) else None


def _gathered(where: str, history: list[dict[str, Any]]) -> TrainerLog | None:
    at: dict[int, dict[str, float]] = {}
    left_out: set[str] = set()
    for entry in history:
        step = entry.get("step")
        if not is_whole(step):
            raise CheckpointError(
                f"{where}: an entry of log_history has step {str(step)[:40]!r}, expected a whole "
                "number from 0 on: restore the file"
            )
        found = {name: _number(entry[name]) for name in FIELDS if name in entry}
        left_out |= entry.keys() - {*FIELDS, *_LABELS}
        if found:
            at.setdefault(step, {}).update(found)
    if not at:
        return None
    steps = sorted(at)
    present = [name for name in FIELDS if any(name in one for one in at.values())]
    values = {name: [at[step].get(name, math.nan) for step in steps] for name in present}
    return TrainerLog(where, steps, values, sorted(map(str, left_out)))


def _number(value: Any) -> float:
    """Return a finite number, and NaN for anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else math.nan
