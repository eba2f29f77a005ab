"""Tell of averages of a model's weights over steps (EMA) that lie beside it and are not read."""

import re
from collections.abc import Iterable

from pipeline.checkpoints.left_out import first_names
from pipeline.checkpoints.stored import Folder

_EMA = re.compile(r"(^|[^a-z])ema([^a-z]|$)")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".distcp")


def is_of_averages(name: str) -> bool:
    """Return whether a file, a folder or a key is named as an average over steps."""
    return _EMA.search(name.lower()) is not None


def notes_on_averages(folders: Iterable[Folder]) -> list[str]:
    """Return a note on the files of averages beside the models of some checkpoints, if any."""
    found = {
        folder.name: beside
        for folder in folders
        if (beside := [name for name in folder.files if _is_beside(name, folder)])
    }
    if not found:
        return []
    names = dict.fromkeys(name for beside in found.values() for name in beside)
    several = "1 checkpoint has" if len(found) == 1 else f"{len(found):,} checkpoints have"
    return [
        f"{several} averages of the weights (EMA) beside the model, which "
        f"are not read: {first_names(names)}; to analyse them, put them into a run of their own"
    ]


def _is_beside(name: str, folder: Folder) -> bool:
    # Where all files have such a name, they are the model that is read.
    return (
        is_of_averages(name)
        and name.endswith(_WEIGHTS)
        and any(one.endswith(_WEIGHTS) and not is_of_averages(one) for one in folder.files)
    )
