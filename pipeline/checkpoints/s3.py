"""Read runs from an S3 prefix with one folder per checkpoint, at any endpoint.

botocore itself reads endpoint and credentials from the environment or from AWS's own files
(`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, `AWS_PROFILE`, ...): no credentials are handled here.
Without any, requests are not signed, see `s3_credentials.py`.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from email.utils import parsedate_to_datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import fsspec
from botocore.exceptions import FlexibleChecksumError
from fsspec.asyn import sync

from pipeline.checkpoints import s3_credentials
from pipeline.checkpoints.file_trees import contents_of, own_files
from pipeline.checkpoints.names import may_be_checkpoint_file
from pipeline.checkpoints.s3_checksums import content_sums, sum_of, sum_of_file
from pipeline.checkpoints.stored import (
    AtomicUnit,
    Files,
    Folder,
    PlaceContents,
    StoredFile,
    known_sha256,
)
from pipeline.config import RunLayout
from pipeline.errors import ChangedError, CheckpointError, DamagedError, InputError
from pipeline.outside import reading
from pipeline.retrying import persistently, status_of, translated_errors

ATOMIC_UNIT: AtomicUnit = "file"
# Four parts of 32 MiB at once: a single connection to S3 is limited to some 100 MB/s, and more
# parts would hold more memory, since each is received as a whole.
_STREAMS = 4
_PART = 32 * 2**20  # bytes
_ADVICE = ": the file was damaged on the server or in transfer, upload it again"

# `persistently` retries; retries of botocore within each attempt would multiply the waiting.
_CLIENT = {"retries": {"total_max_attempts": 1}}


def contents(uri: str, layout: RunLayout) -> PlaceContents:
    """Return the checkpoints under `s3://bucket/prefix`, by their names, from one listing."""
    return contents_of(uri, _listed(uri), layout)


def now(uri: str) -> float:
    """Return the server's time, in seconds since the epoch."""
    bucket, _, prefix = _checked(uri).partition("/")
    with _translated(uri, "bucket or prefix", InputError):
        return time.monotonic() + _server_time(bucket, prefix.partition("/")[0])


# Cached: the two clocks run at the same rate, so that one request per address is enough.
@lru_cache
def _server_time(bucket: str, prefix: str) -> float:
    """Return the difference between a server's time and this process's monotonic clock, cached."""
    # From the Date header of the cheapest request that a reader's permissions must allow.
    answer = persistently(
        lambda: _filesystem().call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)
    )
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    server = parsedate_to_datetime(date).timestamp() if date else time.time()
    return server - time.monotonic()


def files_of(uris: Sequence[str]) -> list[Files]:
    """Return the files of each of the folders (see `stored.Files`), from one listing each.

    For the address of an object, which is a checkpoint by itself, that object.
    """
    return [_files_at(uri) for uri in uris]


def _files_at(uri: str) -> Files:
    parent, _, name = uri.rpartition("/")
    if may_be_checkpoint_file(name) and (file := file_in(parent, name)) is not None:
        return {name: replace(file, at=parent)}
    return own_files(_listed(uri))


def file_in(uri: str, name: str) -> StoredFile | None:
    """Return one file of a folder, without listing the others; None if it is absent."""
    place = _join(uri, name)
    with _translated(place, "object", InputError):
        try:
            facts = persistently(lambda: _filesystem().info(_checked(place)))
        except FileNotFoundError:
            return None
    return _stored(name, facts) if facts["type"] == "file" else None


def read(uri: str, name: str, start: int = 0, stop: int | None = None) -> bytes:
    """Return bytes `start` to `stop` of a file in the folder `uri`; fewer if it ends before."""
    place = _join(uri, name)
    # max_concurrency=1 spares a request: for several streams s3fs first asks for the size.
    whole = stop is None and not start
    limits = {"max_concurrency": 1} if whole else {"start": start, "end": stop}
    with _translated(place, "object", CheckpointError):
        return persistently(lambda: _filesystem().cat_file(place, **limits))


def is_growing(folder: Folder) -> bool:
    """Return True: objects appear one after another, each as a whole, so that none grows."""
    return True


def fetch(uri: str, file: StoredFile, target: Path) -> None:
    """Download one file of the folder `uri` to `target`, and verify it.

    Raises ChangedError if it was replaced since it was listed, DamagedError if its checksum does
    not match.
    """
    place = _join(uri, file.name)
    with _translated(place, "object", CheckpointError):
        persistently(lambda: _fetch_once(place, file, target))
        persistently(lambda: _verify(place, file, lambda name: sum_of_file(target, name)))


def read_range(uri: str, file: StoredFile, start: int, stop: int) -> bytes:
    """Return bytes `start` to `stop` of the object as it was listed; see `stored.RemotePlace`."""
    place = _join(uri, file.name)
    with translated_errors(place, "object", CheckpointError):
        return persistently(lambda: _range_once(place, file, start, stop))


def _range_once(place: str, file: StoredFile, start: int, stop: int) -> bytes:
    filesystem = _filesystem()
    with _unchanged(place):
        found = sync(filesystem.loop, _range, filesystem, _asked(place, file), start, stop)
    if found is None or len(found) != stop - start:
        raise OSError(f"{place}: received {len(found or b'')} bytes, expected {stop - start}")
    return found


def verify(uri: str, file: StoredFile, content: bytes) -> None:
    """Verify the content of a small file; see `stored.Place`."""
    # Most ETags are the MD5 of the content, so that no request is needed.
    md5 = sum_of([content], "md5")
    if file.identity != f"etag {md5} {len(content)}":
        place = _join(uri, file.name)
        with _translated(place, "object", CheckpointError):
            persistently(lambda: _verify(place, file, lambda name: sum_of([content], name)))


def _fetch_once(place: str, file: StoredFile, target: Path) -> None:
    filesystem = _filesystem()
    target.write_bytes(b"")  # created here, since the parts open it with "r+b"
    with _unchanged(place):
        asked = _asked(place, file)
        sync(filesystem.loop, _download, filesystem, asked, file.size, target)
    if (size := target.stat().st_size) != file.size:
        raise OSError(f"{place}: received {size} bytes, expected {file.size}")


def _asked(place: str, file: StoredFile) -> dict[str, str]:
    """Return the arguments of a request for the listed object, and for no other one."""
    bucket, key, _ = _filesystem().split_path(place)
    # IfMatch: all parts must come from the listed object, even if it is replaced meanwhile.
    return {"Bucket": bucket, "Key": key, "IfMatch": f'"{_etag(file)}"'}


@contextmanager
def _unchanged(place: str) -> Iterator[None]:
    """Translate the errors of a request for an object that was replaced or damaged."""
    try:
        yield
    except FlexibleChecksumError as error:  # botocore verifies checksums in the response's headers
        raise DamagedError(f"{place}: {error}{_ADVICE}") from error
    except Exception as error:
        if status_of(error) == 412:  # precondition failed: the ETag has changed
            raise _changed(place) from error
        raise


async def _range(filesystem: Any, asked: dict[str, str], start: int, stop: int) -> bytes:
    """Return a part of an object; the server refuses it if the ETag is not the listed one."""
    # Private, because the public _cat_file of s3fs does not accept IfMatch.
    answer = await filesystem._call_s3("get_object", **asked, Range=f"bytes={start}-{stop - 1}")
    async with answer["Body"] as body:
        return await body.read()


async def _download(filesystem: Any, asked: dict[str, str], size: int, target: Path) -> None:
    """Write an object in parts; the server refuses each if the ETag is not the listed one."""
    streams = asyncio.Semaphore(_STREAMS)

    async def part(start: int) -> None:
        async with streams:
            content = await _range(filesystem, asked, start, min(start + _PART, size))
            with target.open("r+b") as stream:
                stream.seek(start)
                stream.write(content)

    parts = [asyncio.ensure_future(part(start)) for start in range(0, size, _PART)]
    try:
        await asyncio.gather(*parts)
    finally:  # if one part failed, the others must not write into the file of the next attempt
        for one in parts:
            one.cancel()
        await asyncio.gather(*parts, return_exceptions=True)


def _verify(place: str, file: StoredFile, own_sum: Callable[[str], str]) -> None:
    """Compare bytes with the first checksum that the server has of the listed object, if any."""
    filesystem = _filesystem()
    bucket, key, _ = filesystem.split_path(place)
    facts = filesystem.call_s3("head_object", Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    if _identity(facts["ETag"], facts["ContentLength"]) != file.identity:
        raise _changed(place)
    for name, expected in list(content_sums(bucket, facts))[:1]:
        if (found := own_sum(name)) != expected:
            raise DamagedError(
                f"{place}: its {name} is {found}, expected {expected} as on the server{_ADVICE}"
            )


def _changed(place: str) -> ChangedError:
    return ChangedError(
        f"{place}: was replaced since it was listed: analyse it again when nothing writes to it"
    )


def _listed(uri: str) -> dict[str, dict[str, StoredFile]]:
    """Return the files in each folder at and below `uri`, by its path in it, from one listing."""
    root = _checked(uri)
    with _translated(uri, "bucket or prefix", InputError):
        objects = persistently(lambda: _filesystem().find(root, detail=True))
    found: dict[str, dict[str, StoredFile]] = defaultdict(dict)
    with reading(f"{uri}: its listing", InputError, remedy="check AWS_ENDPOINT_URL"):
        for path, facts in objects.items():
            folder, _, name = path[len(root) + 1 :].rpartition("/")
            files = found[folder]  # creates an entry also for an object that stands for a folder
            if name:
                files[name] = _stored(name, facts)
    return dict(found)


def _stored(name: str, facts: dict[str, Any]) -> StoredFile:
    identity = _identity(facts["ETag"], facts["size"])
    modified = facts.get("LastModified")
    changed = modified.timestamp() if modified is not None else 0.0
    return StoredFile(name, int(facts["size"]), identity, known_sha256(identity), changed)


def _identity(etag: str, size: int) -> str:
    # An ETag is the MD5 of the content or of its parts' MD5s; the size makes a collision of the
    # two forms harmless.
    return f"etag {etag.strip(chr(34))} {size}"


def _etag(file: StoredFile) -> str:
    return str(file.identity).split(" ")[1]


def _checked(uri: str) -> str:
    """Return `bucket/prefix` of an s3 URI. Raises InputError if there is no bucket."""
    path = uri.removeprefix("s3://").rstrip("/")
    if not path or path.startswith("/") or ".." in path.split("/"):
        raise InputError(f"{uri}: is no place on S3; expected s3://bucket/prefix")
    return path


def _join(uri: str, name: str) -> str:
    return f"{uri.rstrip('/')}/{name}"


def _filesystem() -> Any:
    """Return the process's S3 file system, which fsspec caches and replaces after a fork."""
    unsigned = {"anon": True} if s3_credentials.are_absent() else {}
    # use_listings_cache=False, since a cached listing would not show new checkpoints.
    return fsspec.filesystem("s3", use_listings_cache=False, config_kwargs=_CLIENT, **unsigned)


@contextmanager
def _translated(
    uri: str, what: str, refusal: type[InputError] | type[CheckpointError]
) -> Iterator[None]:
    """Translate errors as `translated_errors` does, with what can be done without credentials."""
    try:
        with translated_errors(uri, what, refusal):
            yield
    except (InputError, CheckpointError) as error:
        if isinstance(error.__cause__, PermissionError) and s3_credentials.are_absent():
            raise refusal(
                f"{uri}: access is denied: {s3_credentials.why_absent()}"
            ) from error.__cause__
        raise
