"""What the `.pth` files of grokking research hold, read without running any code of theirs.

    {epoch}.pth                 {"model": state dict, "epoch": ..., "train_loss": ..., ...}
    init.pth, final.pth         the same; init.pth is step 0 and may hold `train_data`
    full_run_data.pth           {"state_dicts": [...], "epochs": [...], "config": ...}
    TransformerLens' demo       {"checkpoints": [...], "checkpoint_epochs": [...], "config": ...}
    a state dict                the tensors alone

A checkpoint's step is the epoch that its file gives it. Unpickling is weights-only: a file that
would run code is refused, and the class of a config is replaced by one that does nothing.
"""

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import InputError

SUFFIXES = (".pth", ".pt")
_REFUSED = re.compile(r"GLOBAL (\S+)")
_CONFIG_CLASSES = {"Config", "HookedTransformerConfig"}


@dataclass(frozen=True)
class Saved:
    """State dicts by step, and what is said beside them.

    train_pairs: the rows a * p + b of the table that were trained on, None where not listed.
    """

    states: dict[int, Mapping[str, Tensor]]
    config: dict[str, Any] = field(default_factory=dict)
    train_pairs: list[int] | None = None


class _ConfigValues:
    """Stands in for the class of a pickled config: keeps its values, runs nothing."""


def step_in_name(file: Path) -> int | str | None:
    """The step that a file's name gives, or the role that it has; None for other files."""
    if file.suffix not in SUFFIXES or not file.is_file():
        return None
    if file.stem in ("init", "final", "full_run_data"):
        return file.stem
    return int(file.stem) if file.stem.isdecimal() else None


def read_saved(file: Path) -> Saved:
    """One file's content. Raises InputError, naming the file, where it cannot be read."""
    content = _unpickled(file)
    if not isinstance(content, dict):
        raise InputError(f"{file}: holds {type(content).__name__}, expected a dictionary")
    config = _values_of(content.get("config", {}))
    return Saved(dict(_states(file, content, config)), config, _train_pairs(content))


def _unpickled(file: Path) -> Any:
    try:
        with torch.serialization.safe_globals([*_stand_ins(file)]):
            return torch.load(
                file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file)
            )
    except pickle.UnpicklingError as error:
        if found := _REFUSED.search(str(error)):
            raise InputError(
                f"{file}: names {found[1]}, and files that could run code are refused: save its "
                "state dicts on their own"
            ) from error
        raise _broken(file, error) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise _broken(file, error) from error


def _broken(file: Path, error: Exception) -> InputError:
    reason = (str(error).splitlines() or [type(error).__name__])[-1]
    return InputError(f"{file}: is truncated or no file of torch.save ({reason}): copy it again")


def _stand_ins(file: Path) -> Iterator[tuple[type, str]]:
    """For each config class that the file names, what is to be put in its place."""
    try:
        with warnings.catch_warnings(action="ignore"):
            names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except (OSError, RuntimeError, ValueError, pickle.UnpicklingError):
        return  # not a zip file; loading it will tell
    for name in names:
        if name.rpartition(".")[2] in _CONFIG_CLASSES:
            yield _ConfigValues, name


def _values_of(config: Any) -> dict[str, Any]:
    values = vars(config) if isinstance(config, _ConfigValues) else config
    return dict(values) if isinstance(values, Mapping) else {}


def _states(
    file: Path, content: Mapping[str, Any], config: Mapping[str, Any]
) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
    """The state dicts in one file with their steps."""
    for many, epochs in (("state_dicts", "epochs"), ("checkpoints", "checkpoint_epochs")):
        if many in content:
            if len(content[many]) != len(content.get(epochs, ())):
                raise InputError(
                    f"{file}: holds {len(content[many])} {many!r} but "
                    f"{len(content.get(epochs, ()))} {epochs!r}: expected one for each"
                )
            yield from zip(map(int, content[epochs]), content[many], strict=True)
            return
    named = step_in_name(file)
    if named == "init":
        step = 0
    else:
        step = content.get("epoch", named if isinstance(named, int) else config.get("num_epochs"))
    yield int(step or 0), content.get("model", content)


def _train_pairs(content: Mapping[str, Any]) -> list[int] | None:
    """The rows of the table that were trained on, where the file lists them."""
    if "train_indices" in content:
        return sorted(int(row) for row in content["train_indices"])
    if pairs := content.get("train_data"):
        p = max(int(pair[-1]) for pair in pairs)
        return sorted(int(a) * p + int(b) for a, b, *_ in pairs)
    return None
