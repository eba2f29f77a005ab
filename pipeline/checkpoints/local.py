"""A run in a local folder: one folder per checkpoint."""

import json
from pathlib import Path

from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.digests import known_digest
from pipeline.checkpoints.files import inside_run, weight_files
from pipeline.checkpoints.names import SPELLINGS, Name, parse_name
from pipeline.checkpoints.unfinished import is_growing, is_unfinished_trainer_save
from pipeline.errors import CheckpointError, InputError


def list_local(folder: str, tokens_per_step: int | None) -> list[Checkpoint]:
    """The checkpoints in `folder`, ordered by step; see `list_checkpoints`."""
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{folder}: there is no such folder: give the folder of a training run")
    found: dict[int, tuple[Name, Path]] = {}
    for path in sorted(root.iterdir()):
        name = parse_name(path.name)
        if name is None or not path.is_dir() or is_unfinished_trainer_save(path):
            continue
        if name.step in found:
            raise InputError(
                f"{folder}: both {found[name.step][1].name!r} and {path.name!r} hold step "
                f"{name.step}: keep one of them"
            )
        found[name.step] = name, path
    if found and is_growing(found[max(found)][1]):
        del found[max(found)]
    if not found:
        raise InputError(
            f"{folder}: holds no finished checkpoint; expected folders named {SPELLINGS}: give "
            "the folder that contains them"
        )
    return [_checkpoint(*found[step], tokens_per_step) for step in sorted(found)]


def _checkpoint(name: Name, path: Path, tokens_per_step: int | None) -> Checkpoint:
    try:
        digest = known_digest(weight_files(path))
    except CheckpointError:
        digest = None  # a bad checkpoint is listed: computing it says by name what is wrong
    return Checkpoint(name.step, str(path), _tokens_seen(name, path, tokens_per_step), digest)


def _tokens_seen(name: Name, path: Path, tokens_per_step: int | None) -> int | None:
    """What a Trainer wrote beside the weights, else the steps' size, else the folder's name."""
    try:
        state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        if seen := int(state.get("num_input_tokens_seen", 0)):
            return seen
    except (OSError, ValueError, TypeError, AttributeError):
        pass
    return name.tokens_seen if tokens_per_step is None else name.step * tokens_per_step


def read_config(checkpoint_folder: str) -> dict:
    """The architecture in a checkpoint's config.json, without what varies between equal models."""
    path = Path(checkpoint_folder) / "config.json"
    try:
        config = json.loads(inside_run(path).read_text(encoding="utf-8"))
    except CheckpointError as error:
        raise InputError(str(error)) from error
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}): every checkpoint needs its config.json"
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: is not valid JSON: restore the checkpoint's config") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: holds no JSON object: restore the checkpoint's config")
    volatile = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache"}
    return {key: value for key, value in config.items() if key not in volatile}
