"""Find the folder of the model in a checkpoint's folder: `global_step_100/actor/huggingface`."""

from collections.abc import Collection, Iterable, Mapping

from pipeline.checkpoints.files import is_hugging_face
from pipeline.checkpoints.left_out import first_names, may_hold_weights

MOST_LEVELS = 2  # below the checkpoint's folder


def model_folders(names: Collection[str], below: Mapping[str, Collection[str]]) -> list[str]:
    """Return the paths of the folders in a checkpoint's that may be the model's; [""] for itself.

    names: what is directly in it. below: what is in the folders below, by their paths in it.
    Folders with weights count first, then those with a config.json. Folders within others that
    count do not, and neither do hidden ones.
    """
    below = {path: inside for path, inside in below.items() if not _is_hidden(path)}
    if "config.json" in names or is_hugging_face(names):
        return [""]
    if found := _outermost(path for path, inside in below.items() if is_hugging_face(inside)):
        return found
    if any(may_hold_weights(name) for name in names if "/" not in name):
        return [""]
    return _outermost(path for path, inside in below.items() if "config.json" in inside) or [""]


def why_none(found: Collection[str]) -> str:
    """Return the reason that a folder, in which these may be the model's, is no checkpoint."""
    return (
        f"{len(found)} folders in it hold a model, {first_names(sorted(found))}: choose one in "
        f'`names`, as in "global_step_{{step}}/{min(found)}"'
    )


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def _outermost(paths: Iterable[str]) -> list[str]:
    found = sorted(paths)
    return [path for path in found if not any(path.startswith(f"{one}/") for one in found)]
