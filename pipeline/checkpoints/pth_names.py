"""Names of `.pth` files, and steps in them."""

import re
from collections.abc import Iterable
from pathlib import Path

from pipeline.checkpoints.names import PTH_DIGITS, PTH_SUFFIXES, is_checkpoint_file

SUFFIXES = PTH_SUFFIXES
MOST_DIGITS = PTH_DIGITS  # of a step, as in the names of folders
# A number, or one after a word: step_010000.pt, checkpoint_5000.pt, ckpt_1000.pt, model_1000.pt.
_NUMBERED = re.compile(
    rf"(?:(?:step|checkpoint|ckpt|chkpt|model|epoch|iter)[-_]?)?(\d{{1,{MOST_DIGITS}}})", re.ASCII
)
_SHOWN = 3  # names that a message lists


def step_in_name(file: Path) -> int | str | None:
    """Return the step in a file's name, or the name if it has a known role; None for others."""
    if file.suffix not in SUFFIXES or not file.is_file():
        return None
    if file.stem in ("init", "final", "full_run_data"):
        return file.stem
    found = _NUMBERED.fullmatch(file.stem)
    return int(found[1]) if found else None


def is_worded(file: Path) -> bool:
    """Return whether a file's name has a word before its step, as those of other formats have."""
    return isinstance(step_in_name(file), int) and not file.stem.isdecimal()


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
    if not path.is_dir():
        return []
    files = [file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file()]
    if any(is_checkpoint_file(file.name) for file in files):
        return []
    return sorted(file.name for file in files if step_in_name(file) is None)
