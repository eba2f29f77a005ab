"""A run under an S3 prefix: one folder per checkpoint, at any endpoint.

Endpoint and credentials come from the environment or from AWS's own files (`AWS_ENDPOINT_URL`,
`AWS_ACCESS_KEY_ID`, `AWS_PROFILE`, ...): none of them passes through here.
"""

import asyncio
import base64
import hashlib
import re
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from email.utils import parsedate_to_datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import fsspec
from botocore.exceptions import FlexibleChecksumError
from fsspec.asyn import sync

from pipeline.checkpoints.names import parse_name
from pipeline.checkpoints.stored import (
    AtomicUnit,
    Entry,
    Files,
    Folder,
    PlaceContents,
    StoredFile,
    known_sha256,
)
from pipeline.errors import ChangedError, CheckpointError, DamagedError, InputError
from pipeline.retrying import persistently, spoken_of, status_of

ATOMIC_UNIT: AtomicUnit = "file"
_STREAMS = 4  # parts of one large file that are fetched side by side
_PART = 32 * 2**20  # bytes
_ADVICE = ": the bytes were changed there or on their way, upload the file again"

# One policy of retrying is enough, and `persistently` is it: botocore's own would multiply it.
_CLIENT = {"retries": {"total_max_attempts": 1}}


def contents(uri: str) -> PlaceContents:
    """What is directly under `s3://bucket/prefix`, by one listing of the prefix."""
    found = _listed(uri)
    named = {name: files for name, files in found.items() if parse_name(name) is not None}
    folders = [Folder(name, _join(uri, name), files) for name, files in named.items()]
    loose = [Entry(name) for name in found.get("", ())]
    others = [Entry(name, list(found[name])) for name in found if name and name not in named]
    run = Folder(uri.rstrip("/").rpartition("/")[2], uri, found.get("", {}))
    return PlaceContents(folders, run, [*loose, *others])


def now(uri: str) -> float:
    """The server's time."""
    bucket, _, prefix = _checked(uri).partition("/")
    with spoken_of(uri, "bucket or prefix", InputError):
        return time.monotonic() + _server_time(bucket, prefix.partition("/")[0])


@lru_cache
def _server_time(bucket: str, prefix: str) -> float:
    """By how much a server's time, the date of one answer, is ahead of this process's clock."""
    answer = persistently(
        lambda: _filesystem().call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)
    )
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    server = parsedate_to_datetime(date).timestamp() if date else time.time()
    return server - time.monotonic()


def files_of(uris: Sequence[str]) -> list[Files]:
    """The files directly in each of the folders, each for one listing."""
    return [_listed(uri).get("", {}) for uri in uris]


def read(uri: str, name: str, start: int = 0, stop: int | None = None) -> bytes:
    """Bytes `start` to `stop` of a file in the folder `uri`; fewer where it ends before."""
    place = _join(uri, name)
    # In one stream: for several, the library first asks how long the object is.
    whole = stop is None and not start
    limits = {"max_concurrency": 1} if whole else {"start": start, "end": stop}
    with spoken_of(place, "object", CheckpointError):
        return persistently(lambda: _filesystem().cat_file(place, **limits))


def is_growing(folder: Folder) -> bool:
    """Always: its objects appear one after another, each of them whole."""
    return True


def fetch(uri: str, file: StoredFile, target: Path) -> None:
    """Write one file of the folder `uri` to `target`, and verify it.

    Raises ChangedError if it is no longer what was listed, DamagedError for other bytes.
    """
    place = _join(uri, file.name)
    with spoken_of(place, "object", CheckpointError):
        persistently(lambda: _fetch_once(place, file, target))
        persistently(lambda: _verify(place, file, lambda name: _sum_of_file(target, name)))


def verify(uri: str, file: StoredFile, content: bytes) -> None:
    """Check the content of a small file; see `stored.Place`. Most ETags tell without a request."""
    md5 = _sum_of([content], "md5")
    if file.identity != f"etag {md5} {len(content)}":
        place = _join(uri, file.name)
        with spoken_of(place, "object", CheckpointError):
            persistently(lambda: _verify(place, file, lambda name: _sum_of([content], name)))


def _fetch_once(place: str, file: StoredFile, target: Path) -> None:
    filesystem = _filesystem()
    bucket, key, _ = filesystem.split_path(place)
    asked = {"Bucket": bucket, "Key": key, "IfMatch": f'"{_etag(file)}"'}
    target.write_bytes(b"")
    try:
        sync(filesystem.loop, _download, filesystem, asked, file.size, target)
    except FlexibleChecksumError as error:  # the client compares what a server sends beside a body
        raise DamagedError(f"{place}: {error}{_ADVICE}") from error
    except Exception as error:
        if status_of(error) == 412:
            raise _changed(place) from error
        raise
    if (size := target.stat().st_size) != file.size:
        raise OSError(f"{place}: {size} bytes came, expected {file.size}")


async def _download(filesystem: Any, asked: dict[str, str], size: int, target: Path) -> None:
    """Write an object in parts, each of which the server sends only if the ETag is the listed."""
    streams = asyncio.Semaphore(_STREAMS)

    async def part(start: int) -> None:
        async with streams:
            range_ = f"bytes={start}-{min(start + _PART, size) - 1}"
            answer = await filesystem._call_s3("get_object", **asked, Range=range_)
            async with answer["Body"] as body:
                content = await body.read()
            with target.open("r+b") as stream:
                stream.seek(start)
                stream.write(content)

    parts = [asyncio.ensure_future(part(start)) for start in range(0, size, _PART)]
    try:
        await asyncio.gather(*parts)
    finally:  # where one failed, the others must not write into what the next try fetches
        for one in parts:
            one.cancel()
        await asyncio.gather(*parts, return_exceptions=True)


def _verify(place: str, file: StoredFile, sum_of: Callable[[str], str]) -> None:
    """Compare bytes with what the server has a sum of, if the object is the listed one."""
    filesystem = _filesystem()
    bucket, key, _ = filesystem.split_path(place)
    facts = filesystem.call_s3("head_object", Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    if _identity(facts["ETag"], facts["ContentLength"]) != file.identity:
        raise _changed(place)
    for name, expected in list(_sums(bucket, facts))[:1]:
        if (found := sum_of(name)) != expected:
            raise DamagedError(
                f"{place}: its {name} is {found}, expected {expected} as its place says{_ADVICE}"
            )


def _sums(bucket: str, facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The name and value, in hex, of each sum of an object's whole content that a server tells.

    An ETag is the content's MD5 unless the object was uploaded in parts, is encrypted with a key of
    the user's or of KMS, or lies in a directory bucket (Amazon S3, API reference, `Object`). A
    checksum of the parts' checksums ends in "-" and their number.
    """
    etag = facts["ETag"].strip('"')
    encrypted = str(facts.get("ServerSideEncryption", "")).startswith("aws:kms")
    encrypted = encrypted or "SSECustomerAlgorithm" in facts
    if re.fullmatch(r"[0-9a-f]{32}", etag) and not encrypted and not bucket.endswith("--x-s3"):
        yield "md5", etag
    for name in ("sha256", "sha1", "crc32"):
        found = facts.get(f"Checksum{name.upper()}", "")
        if found and "-" not in found and facts.get("ChecksumType") != "COMPOSITE":
            yield name, base64.b64decode(found).hex()


def _sum_of(pieces: Iterable[bytes], name: str) -> str:
    if name == "crc32":
        crc = 0
        for piece in pieces:
            crc = zlib.crc32(piece, crc)
        return f"{crc:08x}"
    digest = hashlib.new(name, usedforsecurity=False)
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _sum_of_file(file: Path, name: str) -> str:
    with file.open("rb") as stream:
        return _sum_of(iter(lambda: stream.read(2**20), b""), name)


def _changed(place: str) -> ChangedError:
    return ChangedError(
        f"{place}: was replaced since it was listed: analyse it again when nothing writes to it"
    )


def _listed(uri: str) -> dict[str, dict[str, StoredFile]]:
    """The files in `uri` (under "") and in each of its subfolders, from one recursive listing."""
    root = _checked(uri)
    with spoken_of(uri, "bucket or prefix", InputError):
        objects = persistently(lambda: _filesystem().find(root, detail=True))
    found: dict[str, dict[str, StoredFile]] = defaultdict(dict)
    for path, facts in objects.items():
        folder, _, name = path[len(root) + 1 :].rpartition("/")
        top, _, deeper = folder.partition("/")
        files = found[top]  # also of a folder that holds nothing but folders
        if name and not deeper:
            files[name] = _stored(name, facts)
    return dict(found)


def _stored(name: str, facts: dict[str, Any]) -> StoredFile:
    identity = _identity(facts["ETag"], facts["size"])
    modified = facts.get("LastModified")
    changed = modified.timestamp() if modified is not None else 0.0
    return StoredFile(name, int(facts["size"]), identity, known_sha256(identity), changed)


def _identity(etag: str, size: int) -> str:
    # An ETag is the content's MD5, or is made from its parts' MD5s: the size is for good measure.
    return f"etag {etag.strip(chr(34))} {size}"


def _etag(file: StoredFile) -> str:
    return str(file.identity).split(" ")[1]


def _checked(uri: str) -> str:
    """`bucket/prefix` of an s3 URI."""
    path = uri.removeprefix("s3://").rstrip("/")
    if not path or path.startswith("/") or ".." in path.split("/"):
        raise InputError(f"{uri}: is no place on S3; expected s3://bucket/prefix")
    return path


def _join(uri: str, name: str) -> str:
    return f"{uri.rstrip('/')}/{name}"


def _filesystem() -> Any:
    """The process's own file system: s3fs keeps one, and makes another after a fork."""
    return fsspec.filesystem("s3", use_listings_cache=False, config_kwargs=_CLIENT)
