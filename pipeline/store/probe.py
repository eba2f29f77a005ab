"""A trial of a storage: does it do what a store relies on?"""

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
