"""Names of `.pth` files, and steps in them."""

from collections.abc import Iterable
from pathlib import Path

from pipeline.checkpoints.names import (
    PTH_DIGITS,
    PTH_SUFFIXES,
    is_checkpoint_file,
    is_of_another_format,
    parse_file_name,
)
from pipeline.config import RunLayout

SUFFIXES = PTH_SUFFIXES
MOST_DIGITS = PTH_DIGITS  # of a step, as in the names of folders
_SHOWN = 3  # names that a message lists


def step_in_name(file: Path) -> int | str | None:
    """Return the step in a file's name, or the name if it has a known role; None for others."""
    if not is_of_another_format(file.name) or not file.is_file():
        return None
    return int(file.stem) if file.stem.isdecimal() else file.stem


def step_in_any_name(file: Path, layout: RunLayout | None = None) -> int | str | None:
    """Return the same, also of a name with a word before its step, such as step_010000.pt.

    Such files may be of other formats too, see `names.py`. layout: of the run; its `names` replace
    all of these.
    """
    found = step_in_name(file) if layout is None or layout.names is None else None
    if found is not None or file.suffix not in SUFFIXES or not file.is_file():
        return found
    name = parse_file_name(file.name, layout)
    if name is None:
        return None
    return name.epoch if name.step is None else name.step


def found_in(content: Iterable[object]) -> str:
    """Return the first of some names, each once, and the number of the others."""
    names = [str(name) for name in dict.fromkeys(content)]
    if not names:
        return "nothing"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def without_step(path: Path) -> list[str]:
    """Return the names of files that may be checkpoints by their suffix, but give no step.

    [] if others in the folder are checkpoints by themselves, see `names.py`.
    """
    files = state_dicts_in(path)
    if any(is_checkpoint_file(file.name) for file in files):
        return []
    return [file.name for file in files if step_in_name(file) is None]


def state_dicts_in(path: Path) -> list[Path]:
    """Return the `.pth` and `.pt` files directly in a folder, by name; [] for a file."""
    every = sorted(path.iterdir()) if path.is_dir() else []
    return [file for file in every if file.suffix in SUFFIXES and file.is_file()]
