"""A run's checkpoints, in order: the rules that hold wherever the run is kept."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.contents import known_digest, tokens_in_trainer_state
from pipeline.checkpoints.names import SPELLINGS, Name, parse_name
from pipeline.checkpoints.stored import Folder, Place
from pipeline.checkpoints.unfinished import is_unfinished_latest, is_unfinished_trainer_save
from pipeline.errors import InputError

SIDE_BY_SIDE = 8  # requests for small things at one time


@dataclass(frozen=True)
class Found:
    """A folder that holds the checkpoint of its name."""

    name: Name
    folder: Folder


def described(
    place: Place, found: Sequence[Found], tokens_per_step: int | None
) -> list[Checkpoint]:
    """What was found, as checkpoints; see `list_checkpoints`."""
    with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
        return list(threads.map(lambda one: _checkpoint(place, one, tokens_per_step), found))


def finished(place: Place, uri: str) -> list[Found]:
    """The folders that hold finished checkpoints, ordered by step.

    Raises InputError where there is none, or two of one step.
    """
    found = _by_step(place, uri)
    if found and is_unfinished_latest(place, found[max(found)].folder):
        del found[max(found)]
    if not found:
        raise InputError(
            f"{uri}: holds no finished checkpoint; expected checkpoints named "
            f"{SPELLINGS}: give the place that contains them"
        )
    return [found[step] for step in sorted(found)]


def _by_step(place: Place, uri: str) -> dict[int, Found]:
    found: dict[int, Found] = {}
    for folder in sorted(place.folders(uri), key=lambda folder: folder.name):
        name = parse_name(folder.name)
        if name is None or is_unfinished_trainer_save(place, folder):
            continue
        if (other := found.get(name.step)) and other.folder.uri != folder.uri:
            raise InputError(
                f"{uri}: both {other.folder.name!r} and {folder.name!r} hold step {name.step}: "
                "keep one of them"
            )
        found[name.step] = Found(name, folder)
    return found


def _checkpoint(place: Place, found: Found, tokens_per_step: int | None) -> Checkpoint:
    """tokens_seen: what a Trainer counted, else the steps' size, else what the name says."""
    name, folder = found.name, found.folder
    tokens = tokens_in_trainer_state(place, folder)
    if tokens is None:
        tokens = name.tokens_seen if tokens_per_step is None else name.step * tokens_per_step
    return Checkpoint(name.step, folder.uri, tokens, known_digest(place, folder))
