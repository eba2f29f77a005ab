"""A trial of a storage: does it do what a store relies on?"""

import os
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path

from pipeline.errors import InputError
from pipeline.store.objects import Objects

FOLDER = "_probe"


def probe(objects: Objects) -> None:
    """Create, create again, list, read and delete an object of no other use. Raises InputError.

    A store relies on this: an object is created only if it is absent, and is listed and read as it
    was written from then on.
    """
    key, content = f"{FOLDER}/{uuid.uuid4().hex}", uuid.uuid4().hex.encode()
    try:
        objects.create(key, content)
    except FileExistsError:
        # The answer to the request may have been lost, and the request sent again.
        if objects.read(key) != content:
            raise
    except FileNotFoundError as error:
        raise InputError(f"{objects.uri}: there is no such bucket: create it first") from error
    try:
        if not _refuses_a_second(objects, key):
            raise _unfit(objects, "created an object a second time (it ignores If-None-Match)")
        if (found := objects.read(key)) != content:
            size = 0 if found is None else len(found)
            raise _unfit(
                objects, f"wrote {len(content)} bytes and read {size}, or other ones, just after"
            )
        if key not in objects.list(FOLDER) or objects.first(f"{FOLDER}/") is None:
            raise _unfit(objects, "did not list an object that was created just before")
    finally:
        objects.delete(key)
        if objects.is_local:
            with suppress(OSError):  # not empty: somebody else is trying the place as well
                Path(objects.path(FOLDER)).rmdir()
    if objects.read(key) is not None:
        raise _unfit(objects, "still had an object that was deleted just before")


def probe_place(objects: Objects) -> None:
    """Probe a place where a store is, or may be made, and leave nothing there. Raises InputError.

    Of a folder that does not exist yet, the nearest one above it that does is tried.
    """
    if not objects.is_local or Path(objects.uri).is_dir():
        probe(objects)
        return
    folder = existing(Path(objects.uri))
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".ontogeny-") as trial:
            probe(Objects(trial))
    except OSError as error:
        remedy = "choose a place that can be written"
        raise InputError(f"{folder}: {error.strerror or error}: {remedy}") from error


def existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    # Not Path.exists, which raises where a folder may not be entered.
    return next(one for one in (folder, *folder.absolute().parents) if os.path.exists(one))  # noqa: PTH110


def _refuses_a_second(objects: Objects, key: str) -> bool:
    try:
        objects.create(key, b"second")
    except FileExistsError:
        return True
    return False


def _unfit(objects: Objects, what: str) -> InputError:
    return InputError(
        f"{objects.uri}: the storage {what}, and two analyses could lose each other's results: "
        "keep the store on a disk, or on S3 that knows conditional writes"
    )
