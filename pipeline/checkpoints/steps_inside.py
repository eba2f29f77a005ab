"""Files of trainers whose names give no step, such as nanoGPT's ckpt.pt, but that state it."""

from dataclasses import replace

from pipeline.checkpoints.contents import StoredSource
from pipeline.checkpoints.formats.single_file import SUFFIXES, step_inside, weights
from pipeline.checkpoints.stored import Entry, Folder, Place, PlaceContents
from pipeline.errors import CheckpointError


def with_steps_inside(place: Place, uri: str, inside: PlaceContents) -> PlaceContents:
    """Return a run's contents with the files among its other entries that state their step.

    They are named by it, `step-N`, and a note says so. Reads some kilobytes of each such file.
    """
    found = {one: _checkpoint(place, uri, one) for one in inside.others if _may_state_it(one)}
    named = {one: folder for one, folder in found.items() if folder is not None}
    if not named:
        return inside
    notes = [f"{one.name}: its step is the one inside it" for one in named]
    others = [one for one in inside.others if one not in named]
    return PlaceContents([*named.values()], inside.run, others, (*inside.notes, *notes))


def _may_state_it(entry: Entry) -> bool:
    is_file = entry.holds is None and not entry.is_ref and not entry.reason
    return is_file and entry.name.endswith(SUFFIXES) and bool(weights([entry.name]))


def _checkpoint(place: Place, uri: str, entry: Entry) -> Folder | None:
    """Return a file as a checkpoint of the step inside it; None if it states none."""
    file = place.file_in(uri, entry.name)
    if file is None:
        return None
    files = {entry.name: replace(file, at=uri.rstrip("/"))}
    address = f"{uri.rstrip('/')}/{entry.name}"
    try:
        source = StoredSource(place, Folder(entry.name, address, files))
        step = step_inside(source.described(entry.name))
    except CheckpointError:  # damaged, or of no known format
        return None
    return None if step is None else Folder(f"step-{step}", address, files, file.changed)
