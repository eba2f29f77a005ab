"""List a run's checkpoints, in order, by rules that are the same for all storage."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.contents import known_digest, tokens_in_trainer_state
from pipeline.checkpoints.left_out import (
    UNFINISHED,
    LeftOut,
    first_names,
    in_words,
    left_out_of,
)
from pipeline.checkpoints.names import SPELLINGS, Name, parse_name
from pipeline.checkpoints.side_by_side import side_by_side
from pipeline.checkpoints.stored import Entry, Folder, Place
from pipeline.checkpoints.unfinished import unfinished_latest, unfinished_trainer_save
from pipeline.errors import InputError

SIDE_BY_SIDE = 8  # concurrent requests for listings and small files


@dataclass(frozen=True)
class Found:
    """A folder with a checkpoint, and its parsed name."""

    name: Name
    folder: Folder


@dataclass(frozen=True)
class Finished:
    """The finished checkpoints of a run, ordered by step, and the entries that are left out.

    run: the run's own folder, see `PlaceContents`.
    """

    found: Sequence[Found]
    left_out: tuple[LeftOut, ...]
    run: Folder | str


def described(
    place: Place, found: Sequence[Found], tokens_per_step: int | None
) -> list[Checkpoint]:
    """Return the checkpoints in the folders that were found; see `list_checkpoints`."""
    return side_by_side(lambda one: _checkpoint(place, one, tokens_per_step), found)


def finished(place: Place, uri: str) -> Finished:
    """Return the finished checkpoints of a run, and other entries that may be checkpoints.

    Raises InputError if there is no checkpoint, or if two have the same step.
    """
    inside = place.contents(uri)
    folders = sorted(inside.folders, key=lambda folder: folder.name)
    reasons = side_by_side(lambda one: unfinished_trainer_save(place, one), folders)
    judged = list(zip(folders, reasons, strict=True))
    found = _by_step(uri, [folder for folder, reason in judged if not reason])
    left_out = [LeftOut(UNFINISHED, folder.name, reason) for folder, reason in judged if reason]
    if found and (reason := unfinished_latest(place, found[max(found)].folder)):
        left_out.append(LeftOut(UNFINISHED, found.pop(max(found)).folder.name, reason))
    left_out += left_out_of(inside.others)
    if not found:
        raise InputError(_nothing(uri, left_out, inside.others))
    return Finished([found[step] for step in sorted(found)], tuple(sorted(left_out)), inside.run)


def _nothing(uri: str, left_out: Sequence[LeftOut], others: Sequence[Entry]) -> str:
    """Return a sentence about a place without a checkpoint, with the names that were found."""
    shown = in_words(left_out) or first_names(sorted(one.name for one in others)) or "nothing"
    return (
        f"{uri}: holds no finished checkpoint; expected checkpoints named {SPELLINGS}, or files "
        f"named N.pth; found: {shown}; give the place that contains them, or give them such names"
    )


def _by_step(uri: str, folders: Sequence[Folder]) -> dict[int, Found]:
    found: dict[int, Found] = {}
    for folder in folders:
        name = parse_name(folder.name)
        if name is None:
            continue
        if (other := found.get(name.step)) and other.folder.uri != folder.uri:
            raise InputError(
                f"{uri}: both {other.folder.name!r} and {folder.name!r} hold step {name.step}: "
                "keep one of them"
            )
        found[name.step] = Found(name, folder)
    return found


def _checkpoint(place: Place, found: Found, tokens_per_step: int | None) -> Checkpoint:
    """Return a checkpoint; `tokens_seen` is from its Trainer, the step's size, or its name."""
    name, folder = found.name, found.folder
    tokens = tokens_in_trainer_state(place, folder)
    if tokens is None:
        tokens = name.tokens_seen if tokens_per_step is None else name.step * tokens_per_step
    return Checkpoint(name.step, folder.uri, tokens, known_digest(place, folder), folder.files)
