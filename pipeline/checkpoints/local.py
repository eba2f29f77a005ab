"""A run in a local folder: one folder per checkpoint."""

import json
import re
from pathlib import Path

from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.digests import known_digest
from pipeline.checkpoints.files import weight_files
from pipeline.errors import CheckpointError, InputError

_STEP_FOLDER = re.compile(r"^(?:step[-_]?|checkpoint-|global_step)(\d+)$")


def list_local(folder: str, tokens_per_step: int | None) -> list[Checkpoint]:
    """The checkpoints in `folder`, ordered by step; see `list_checkpoints`."""
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{folder}: there is no such folder: give the folder of a training run")
    found: dict[int, Path] = {}
    for path in sorted(root.iterdir()):
        match = _STEP_FOLDER.match(path.name)
        if match is None or not path.is_dir():
            continue
        step = int(match.group(1))
        if step in found:
            raise InputError(
                f"{folder}: both {found[step].name!r} and {path.name!r} hold step {step}: "
                "keep one of them"
            )
        found[step] = path
    if not found:
        raise InputError(
            f"{folder}: holds no checkpoint; expected folders named step-N, stepN, checkpoint-N "
            "or global_stepN: give the folder that contains them"
        )
    return [_checkpoint(step, found[step], tokens_per_step) for step in sorted(found)]


def _checkpoint(step: int, path: Path, tokens_per_step: int | None) -> Checkpoint:
    try:
        digest = known_digest(weight_files(path))
    except CheckpointError:
        digest = None  # a bad checkpoint is listed: computing it says by name what is wrong
    return Checkpoint(step, str(path), _tokens_seen(step, path, tokens_per_step), digest)


def _tokens_seen(step: int, path: Path, tokens_per_step: int | None) -> int | None:
    """What a Trainer wrote beside the weights, else what the steps' size tells."""
    try:
        state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        if seen := int(state.get("num_input_tokens_seen", 0)):
            return seen
    except (OSError, ValueError, TypeError):
        pass
    return None if tokens_per_step is None else step * tokens_per_step


def read_config(checkpoint_folder: str) -> dict:
    """The architecture in a checkpoint's config.json, without what varies between equal models."""
    path = Path(checkpoint_folder) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}): every checkpoint needs its config.json"
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: is not valid JSON: restore the checkpoint's config") from error
    volatile = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache"}
    return {key: value for key, value in config.items() if key not in volatile}
