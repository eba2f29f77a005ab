"""List a run's checkpoints, in order, by rules that are the same for all storage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.checkpoints.averages import notes_on_averages
from pipeline.checkpoints.bases import with_bases
from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.converted import converted_uri
from pipeline.checkpoints.left_out import (
    UNFINISHED,
    UNNAMED,
    LeftOut,
    expected_names,
    first_names,
    in_words,
    left_out_of,
    pattern_like,
)
from pipeline.checkpoints.names import Name, is_of_another_format, parse_file_name, parse_name
from pipeline.checkpoints.numbering import numbered_names
from pipeline.checkpoints.outer_configs import with_outer_configs
from pipeline.checkpoints.places import place_of
from pipeline.checkpoints.side_by_side import side_by_side
from pipeline.checkpoints.steps_inside import with_steps_inside
from pipeline.checkpoints.stored import Entry, Folder, Place, PlaceContents
from pipeline.checkpoints.trainer_log import tokens_in_trainer_state
from pipeline.checkpoints.unfinished import unfinished_latest, unfinished_trainer_save
from pipeline.checkpoints.weight_files import known_digest
from pipeline.config import RunLayout
from pipeline.errors import InputError


@dataclass(frozen=True)
class Found:
    """A folder with a checkpoint, and its parsed name, which has a step."""

    name: Name
    folder: Folder

    @property
    def step(self) -> int:
        """The step."""
        assert self.name.step is not None, "only names with a step are found"
        return self.name.step


@dataclass(frozen=True)
class Finished:
    """The finished checkpoints of a run, ordered by step, and the entries that are left out.

    run: the run's own folder, see `PlaceContents`. place: the storage that they are in, this
    machine for a remote run that was converted. notes: sentences on what was assumed or not read.
    """

    found: Sequence[Found]
    left_out: tuple[LeftOut, ...]
    run: Folder | str
    place: Place
    notes: tuple[str, ...] = ()


def described(listing: Finished, tokens_per_step: int | None) -> list[Checkpoint]:
    """Return the checkpoints in the folders that were found; see `list_checkpoints`."""
    place = listing.place
    return side_by_side(lambda one: _checkpoint(place, one, tokens_per_step), listing.found)


def finished_in(
    uri: str,
    layout: RunLayout | None = None,
    model: Mapping[str, Any] | None = None,
    tokens_per_step: int | None = None,
) -> Finished:
    """Return the finished checkpoints of the run at an address; see `finished`.

    model: config fields that `.pth` files lack, see `pipeline.config.SavedModel`.
    """
    layout = layout or RunLayout()
    # Without `model`, files whose names are given are read as they are.
    address = uri if layout.names and not model else converted_uri(uri, model, layout)
    if address != uri:  # the checkpoints of a conversion have names of their own
        layout = layout.model_copy(update={"names": None})
    return finished(place_of(address), address, layout, tokens_per_step)


def finished(
    place: Place, uri: str, layout: RunLayout | None = None, tokens_per_step: int | None = None
) -> Finished:
    """Return the finished checkpoints of a run, and other entries that may be checkpoints.

    tokens_per_step: gives the steps of names that only give tokens, see `numbering.py`. Raises
    InputError if there is no checkpoint, or if two have the same step.
    """
    layout = layout or RunLayout()
    inside = _contents(place, uri, layout)
    folders = sorted(inside.folders, key=lambda folder: folder.name)
    folders, of_configs = with_outer_configs(folders, inside.run, layout)
    folders, of_bases = with_bases(folders, inside.run, layout)
    reasons = side_by_side(lambda one: unfinished_trainer_save(place, one), folders)
    judged = list(zip(folders, reasons, strict=True))
    left_out = [LeftOut(UNFINISHED, folder.name, reason) for folder, reason in judged if reason]
    numbered = numbered_names(
        {one.name: _parsed(one.name, layout) for one, reason in judged if not reason},
        tokens_per_step,
    )
    found = _by_step(uri, folders, numbered.names)
    if found and (reason := unfinished_latest(place, found[max(found)].folder)):
        left_out.append(LeftOut(UNFINISHED, found.pop(max(found)).folder.name, reason))
    left_out += [*numbered.left_out, *left_out_of(inside.others, layout)]
    if not found:
        raise InputError(_nothing(uri, layout, left_out, inside.others))
    ordered = [found[step] for step in sorted(found)]
    of_averages = notes_on_averages(one.folder for one in ordered)
    notes = (*inside.notes, *of_configs, *of_bases, *numbered.notes, *of_averages)
    return Finished(ordered, tuple(sorted(left_out)), inside.run, place, notes)


def _contents(place: Place, uri: str, layout: RunLayout) -> PlaceContents:
    """Return the contents of a run, or those of its only folder with checkpoints in it.

    Raises InputError if several of its folders have checkpoints, and it has none itself.
    """
    inside = place.contents(uri, layout)
    if inside.folders:
        return replace(inside, notes=(*inside.notes, *_note_on_nested(uri, inside)))
    below = sorted(entry.name for entry in inside.others if holds_checkpoints(entry, layout))
    if len(below) > 1:
        raise InputError(
            f"{uri}: holds no checkpoint itself, and {len(below)} folders in it do: "
            f"{first_names(below)}; give one of them"
        )
    if not below:
        return with_steps_inside(place, uri, inside)
    lower = f"{uri.rstrip('/')}/{below[0]}"
    found = place.contents(lower, layout)
    notes = (f"the checkpoints are in {lower}", *found.notes, *_note_on_nested(lower, found))
    # The run's own folder is the outer one: a tokenizer or a config.json may lie there.
    return PlaceContents(found.folders, inside.run, found.others, notes)


def holds_checkpoints(entry: Entry, layout: RunLayout) -> bool:
    """Return whether a folder of a run holds entries with the names of checkpoints."""
    if entry.name.startswith(".") or entry.holds is None or entry.is_ref:
        return False
    return any(
        parse_name(name, layout) is not None or parse_file_name(name, layout) is not None
        for name in entry.holds
    )


def _note_on_nested(uri: str, inside: PlaceContents) -> list[str]:
    """Return a sentence if the models are in folders within the checkpoints' own."""
    paths = [one.uri.partition(f"{uri.rstrip('/')}/{one.name}/")[2] for one in inside.folders]
    nested = sorted({path for path in paths if path})
    if not nested:
        return []
    return [f"the models are in folders within those of the checkpoints: {first_names(nested)}"]


def _parsed(name: str, layout: RunLayout) -> Name:
    return parse_name(name, layout) or parse_file_name(name, layout) or Name()


def _nothing(
    uri: str, layout: RunLayout, left_out: Sequence[LeftOut], others: Sequence[Entry]
) -> str:
    """Return a sentence about a place without a checkpoint, with the names that were found."""
    shown = in_words(left_out) or first_names(sorted(one.name for one in others)) or "nothing"
    expected = expected_names(layout)
    unnamed = [one.name for one in left_out if one.kind == UNNAMED] or [""]
    files = ", or files named N.pth" if layout.names is None and "://" not in uri else ""
    is_pth = layout.names is None and any(is_of_another_format(one.name) for one in others)
    remedy = (
        "files named N.pth are read with `model`, as in `model: {names: transformerlens}`, or, of "
        "nanoGPT and other trainers, with their names, as in"
        if is_pth
        else "give the place that contains them, or their names, as in"
    )
    return (
        f"{uri}: holds no finished checkpoint; expected checkpoints named {expected}{files}; "
        f'found: {shown}; {remedy} `names: "{pattern_like(unnamed[0])}"`'
    )


def _by_step(uri: str, folders: Sequence[Folder], names: Mapping[str, Name]) -> dict[int, Found]:
    """Return the checkpoints by step; names: of those that are finished, with their steps."""
    found: dict[int, Found] = {}
    for folder in folders:
        name = names.get(folder.name)
        if name is None or name.step is None:
            continue
        if (other := found.get(name.step)) and other.folder.uri != folder.uri:
            both = [other.folder.name, folder.name]
            if both[0] == both[1]:  # files that are named by the step inside them
                both = [one.uri.rpartition("/")[2] for one in (other.folder, folder)]
            raise InputError(
                f"{uri}: both {both[0]!r} and {both[1]!r} hold step {name.step}: keep one of them"
            )
        found[name.step] = Found(name, folder)
    return found


def _checkpoint(place: Place, found: Found, tokens_per_step: int | None) -> Checkpoint:
    """Return a checkpoint; `tokens_seen` is from its Trainer, the step's size, or its name."""
    name, folder = found.name, found.folder
    tokens = tokens_in_trainer_state(place, folder)
    if tokens is None:
        if tokens_per_step is None or name.counts != "steps":
            tokens = name.tokens_seen
        else:
            tokens = found.step * tokens_per_step
    return Checkpoint(found.step, folder.uri, tokens, known_digest(place, folder), folder.files)
