"""A run in a local folder: one folder per checkpoint."""

import json
import time
import zipfile
from pathlib import Path

from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.digests import known_digest
from pipeline.checkpoints.files import inside_run, weight_files
from pipeline.checkpoints.headers import NoHeaderError, read_local_header
from pipeline.checkpoints.names import SPELLINGS, Name, parse_name
from pipeline.errors import CheckpointError, InputError

# How long after its last change a cut-off checkpoint may still be in the making, in seconds.
SETTLED_AFTER = 60.0

# What transformers' Trainer writes beside the weights, before its trainer_state.json.
_TRAINER_FILES = ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth")


def list_local(folder: str, tokens_per_step: int | None) -> list[Checkpoint]:
    """The checkpoints in `folder`, ordered by step; see `list_checkpoints`."""
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{folder}: there is no such folder: give the folder of a training run")
    found: dict[int, tuple[Name, Path]] = {}
    for path in sorted(root.iterdir()):
        name = parse_name(path.name)
        if name is None or not path.is_dir() or still_being_written(path):
            continue
        if name.step in found:
            raise InputError(
                f"{folder}: both {found[name.step][1].name!r} and {path.name!r} hold step "
                f"{name.step}: keep one of them"
            )
        found[name.step] = name, path
    if not found:
        raise InputError(
            f"{folder}: holds no finished checkpoint; expected folders named {SPELLINGS}: give "
            "the folder that contains them"
        )
    return [_checkpoint(*found[step], tokens_per_step) for step in sorted(found)]


def still_being_written(folder: Path) -> bool:
    """Whether a checkpoint's folder is one that a training run has not finished.

    The rule: a Trainer's folder is finished when it has its trainer_state.json, which the Trainer
    writes last, and is never listed without. Any other folder is unfinished while something in it
    is missing or cut off and it has changed within `SETTLED_AFTER` seconds; after that it is a bad
    checkpoint, which is listed and reported by name.
    """
    if (folder / "trainer_state.json").is_file():
        return False
    if any((folder / name).exists() for name in _TRAINER_FILES):
        return True
    return not _is_whole(folder) and time.time() - _last_change(folder) < SETTLED_AFTER


def _is_whole(folder: Path) -> bool:
    try:
        files = weight_files(folder)
    except CheckpointError:
        return False
    return (folder / "config.json").is_file() and all(_is_whole_file(file) for file in files)


def _is_whole_file(file: Path) -> bool:
    """Whether a weight file ends where it must: by its header, or by a zip file's directory."""
    try:
        if file.suffix == ".safetensors":
            return file.stat().st_size == read_local_header(file).size
        return zipfile.is_zipfile(file)
    except (NoHeaderError, OSError):
        return False


def _last_change(folder: Path) -> float:
    """Seconds since the epoch; now, if files come and go while we look."""
    try:
        return max(path.lstat().st_mtime for path in (folder, *folder.iterdir()))
    except OSError:
        return time.time()


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
