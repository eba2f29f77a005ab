"""A run under an S3 prefix: one folder per checkpoint, at any endpoint.

Endpoint and credentials come from the environment or from AWS's own files (`AWS_ENDPOINT_URL`,
`AWS_ACCESS_KEY_ID`, `AWS_PROFILE`, ...): none of them passes through here.
"""

import time
from collections import defaultdict
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import fsspec

from pipeline.checkpoints.names import parse_name
from pipeline.checkpoints.retrying import persistently, spoken_of
from pipeline.checkpoints.stored import (
    Entry,
    Files,
    Folder,
    PlaceContents,
    StoredFile,
    Unit,
    known_sha256,
)
from pipeline.errors import CheckpointError, InputError

WRITTEN_BY_THE: Unit = "file"
_STREAMS = 4  # parts of one large file that are fetched side by side

# One policy of retrying is enough, and `persistently` is it: botocore's own would multiply it.
_CLIENT = {"retries": {"total_max_attempts": 1}}


def contents(uri: str) -> PlaceContents:
    """What is directly under `s3://bucket/prefix`, by one listing of the prefix."""
    found = _listed(uri)
    named = {name: files for name, files in found.items() if parse_name(name) is not None}
    folders = [Folder(name, _join(uri, name), files) for name, files in named.items()]
    loose = [Entry(name) for name in found.get("", ())]
    others = [Entry(name, list(found[name])) for name in found if name and name not in named]
    return PlaceContents(folders, [*loose, *others])


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
    """The files directly in each of the folders; folders side by side cost one listing."""
    parents = {uri.rpartition("/")[0] for uri in uris}
    if len(uris) > 1 and len(parents) == 1:
        found = _listed(parents.pop())
        return [found.get(uri.rpartition("/")[2], {}) for uri in uris]
    return [_listed(uri).get("", {}) for uri in uris]


def read(uri: str, name: str, start: int = 0, stop: int | None = None) -> bytes:
    """Bytes `start` to `stop` of a file in the folder `uri`; fewer where it ends before."""
    place = _join(uri, name)
    limits = {} if stop is None and not start else {"start": start, "end": stop}
    with spoken_of(place, "object", CheckpointError):
        return persistently(lambda: _filesystem().cat_file(place, **limits))


def is_growing(folder: Folder) -> bool:
    """Always: its objects appear one after another, each of them whole."""
    return True


def fetch(uri: str, file: StoredFile, target: Path) -> None:
    """Write one file of the folder `uri` to `target`. Raises OSError if it changed meanwhile."""
    place = _join(uri, file.name)
    with spoken_of(place, "object", CheckpointError):
        persistently(lambda: _fetch_once(place, file, target))


def _fetch_once(place: str, file: StoredFile, target: Path) -> None:
    filesystem = _filesystem()
    filesystem.get_file(place, str(target), max_concurrency=_STREAMS)
    size = target.stat().st_size
    if size != file.size:
        raise OSError(f"{place}: {size} bytes came, expected {file.size}")
    if _stored(file.name, filesystem.info(place, refresh=True)).identity != file.identity:
        raise OSError(f"{place}: changed while it was fetched")


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
    # An ETag is the content's MD5, or is made from its parts' MD5s: the size is for good measure.
    identity = f"etag {str(facts['ETag']).strip(chr(34))} {facts['size']}"
    modified = facts.get("LastModified")
    changed = modified.timestamp() if modified is not None else 0.0
    return StoredFile(name, int(facts["size"]), identity, known_sha256(identity), changed)


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
