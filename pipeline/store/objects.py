"""Objects of a store, on disk or on S3: read, list, delete, put, and create only if absent.

A handle holds the URI only: it can be sent to any process, which opens the storage itself.
Credentials and an endpoint come from the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`,
...), never from here, so that none of them travels or is written down.

On a disk, what was put or created survives power loss: its content is synced before its name
appears, and its folder afterwards.
"""

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from zarr.abc.store import Store as ZarrStore
from zarr.storage import FsspecStore, LocalStore

from pipeline.addresses import require_no_secret
from pipeline.errors import InputError
from pipeline.extras import require
from pipeline.store.access import access
from pipeline.store.local_files import (
    INSIDE,
    PARTIAL,
    copy_file,
    create_file,
    put_file,
    remove_empty_folders,
    sync,
)

# More than one concurrent part adds a HEAD before every whole-object GET; a cached listing would
# miss the rows of other workers; a server that restarts is away for half a minute.
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {
        "max_concurrency": 1,
        "use_listings_cache": False,
        # Of botocore's modes only "legacy" tries again after 429, "too many requests".
        "config_kwargs": {"retries": {"mode": "legacy", "total_max_attempts": 8}},
    },
}
_SYNCS = 16  # files synced at a time: 48 took 407 ms one by one, and 26 ms so


@dataclass(frozen=True)
class Objects:
    """The objects under one URI: an absolute path, or `s3://bucket/prefix`."""

    uri: str

    def __post_init__(self) -> None:
        uri = require_no_secret(self.uri).removeprefix("file://")
        if "://" not in uri:
            uri = str(Path(uri).expanduser().absolute())
        elif (scheme := uri.partition("://")[0]) not in _OPTIONS:
            raise InputError(f"{uri}: cannot keep a store on {scheme}://; use a path or s3://")
        # The way for a frozen dataclass to normalise a field of its own.
        object.__setattr__(self, "uri", uri.rstrip("/"))

    @property
    def is_local(self) -> bool:
        """True if the objects are files on a mounted file system."""
        return "://" not in self.uri

    def path(self, key: str) -> str:
        """Return the full address of a key, for messages and for other libraries."""
        return f"{self.uri}/{key}" if key else self.uri

    def read(self, key: str) -> bytes | None:
        """Return the object's content, None where there is none."""
        with access(self.uri), suppress(FileNotFoundError, NotADirectoryError):
            try:
                return bytes(self._fs.cat_file(self.path(key)))  # pyright: ignore[reportArgumentType]
            except IsADirectoryError:
                return bytes(self._fs.cat_file(self.path(f"{key}/{INSIDE}")))  # pyright: ignore[reportArgumentType]
        return None

    def read_all(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the contents of objects by key, read side by side; absent ones are left out."""
        if self.is_local or len(keys) < 2:
            found = {key: self.read(key) for key in keys}
            return {key: content for key, content in found.items() if content is not None}
        with access(self.uri):
            paths = [self.path(key) for key in keys]
            got: Any = self._fs.cat(paths, on_error="return")
            contents = {}
            for key in keys:
                content = got[str(self._fs._strip_protocol(self.path(key)))]
                if isinstance(content, bytes):
                    contents[key] = content
                elif not isinstance(content, FileNotFoundError):
                    raise content
        return contents

    def list(self, prefix: str = "") -> list[str]:
        """Return the keys of all objects under a folder, in a fresh list."""
        return [key for key in self._find(prefix, detail=False) if not key.endswith(PARTIAL)]

    def first(self, prefix: str) -> str | None:
        """Return the first key, in alphabetical order, that begins with `prefix`: one request."""
        if self.is_local:
            folder, _, begin = prefix.rpartition("/")
            try:
                names = os.listdir(self.path(folder))  # noqa: PTH208
            except (FileNotFoundError, NotADirectoryError):
                return None
            fitting = [n for n in names if n.startswith(begin) and not n.endswith(PARTIAL)]
            return f"{folder}/{min(fitting)}".removeprefix("/") if fitting else None
        return next((str(one["Key"]) for one in self._pages(prefix, most=1)), None)

    def facts(self, prefix: str = "") -> dict[str, tuple[int, float]]:
        """Return size, and time of the last change in seconds since 1970, of every object.

        Unlike `list`, this includes files that a killed writer left unfinished.
        """
        found = self._find(prefix, detail=True)
        return {key: (int(f["size"]), _changed(f)) for key, f in found.items()}

    def create(self, key: str, content: bytes) -> None:
        """Create an object atomically. Raises FileExistsError where there is one already."""
        with access(self.uri):
            if not self.is_local:
                self._create_remotely(key, content)
                return
            create_file(self._file(key), content)
            sync(self._file(key).parent)

    def put(self, contents: Mapping[str, bytes]) -> None:
        """Make or overwrite objects: a reader sees each whole, or not at all.

        All are synced side by side before any name appears, and their folders once.
        """
        with access(self.uri):
            if not self.is_local:
                paths = {self.path(key): content for key, content in contents.items()}
                self._fs.pipe(paths)
                return
            with ThreadPoolExecutor(max_workers=min(_SYNCS, max(len(contents), 1))) as threads:
                list(threads.map(put_file, map(self._file, contents), contents.values()))
            for folder in {self._file(key).parent for key in contents}:
                sync(folder)

    def copy(self, source: str, target: str) -> None:
        """Make an object with the content of another that never changes, without reading it.

        On a disk it is a second name of the same file, where the file system has these.
        """
        with access(self.uri):
            if not self.is_local:
                self._fs.copy(self.path(source), self.path(target))
                return
            copy_file(self._file(source), self._file(target))

    def sync(self, folder: str) -> None:
        """Make all that other libraries wrote into a folder survive power loss."""
        if not self.is_local:
            return
        top = self._file(folder)
        with ThreadPoolExecutor(max_workers=_SYNCS) as threads:
            list(threads.map(sync, top.rglob("*")))
        sync(top)
        sync(top.parent)

    def delete(self, key: str) -> None:
        """Remove one object, or a folder with its content, if it exists."""
        with access(self.uri), suppress(FileNotFoundError):
            self._fs.rm(self.path(key), recursive=True)

    def delete_all(self, keys: Sequence[str]) -> None:
        """Remove many objects, with as few requests as the storage allows."""
        if keys and self.is_local:
            for key in keys:
                self.delete(key)
            remove_empty_folders({self._file(key).parent for key in keys}, Path(self.uri))
        elif keys:
            with access(self.uri), suppress(FileNotFoundError):
                self._fs.rm([self.path(key) for key in keys])

    def zarr(self, folder: str = "", read_only: bool = False) -> ZarrStore:
        """Return the folder as a Zarr store, opened in this process."""
        if self.is_local:
            return LocalStore(self.path(folder), read_only=read_only)
        options = {**_OPTIONS[self._scheme]}
        return FsspecStore.from_url(self.path(folder), storage_options=options, read_only=read_only)

    def _file(self, key: str) -> Path:
        """Return the path of a local object."""
        return Path(self.path(key))

    def _find(self, prefix: str, detail: bool) -> dict[str, Any]:
        if not self.is_local:
            return {str(one["Key"]): one for one in self._pages(f"{prefix}/" if prefix else "")}
        found: Any = {}
        with access(self.uri), suppress(FileNotFoundError):
            found = self._fs.find(self.path(prefix), detail=detail)
        root = len(self.uri) + 1
        keys = {key[root:]: found[key] if detail else None for key in sorted(found)}
        return {key.removesuffix(f"/{INSIDE}"): about for key, about in keys.items()}

    def _pages(self, prefix: str, most: int | None = None) -> Iterator[dict[str, Any]]:
        """Yield what S3 says of the objects whose keys begin with `prefix`, in order of key.

        most: how many to ask for, in one request. fsspec's own listing asks twice more where there
        is nothing, and cannot be told to stop after the first.
        """
        bucket, _, root = self.uri.partition("://")[2].partition("/")
        base = f"{root}/" if root else ""
        given: dict[str, Any] = {"Bucket": bucket, "Prefix": base + prefix}
        if most is not None:
            given["MaxKeys"] = most
        while True:
            answer: Any = {}
            with access(self.uri), suppress(FileNotFoundError):
                answer = self._fs.call_s3("list_objects_v2", **given)  # pyright: ignore[reportAttributeAccessIssue]
            for one in answer.get("Contents", ()):
                yield {**one, "Key": str(one["Key"]).removeprefix(base), "size": one["Size"]}
            if most is not None or not answer.get("IsTruncated"):
                return
            given["ContinuationToken"] = answer["NextContinuationToken"]

    def _create_remotely(self, key: str, content: bytes) -> None:
        try:
            # s3fs sends `If-None-Match: *`, with which S3 creates an object only if absent.
            self._fs.pipe_file(self.path(key), content, mode="create")
        except OSError as error:
            # s3fs translates a failed precondition by the server's error code, and servers differ;
            # the HTTP status is always 412.
            response = getattr(error.__cause__, "response", {})
            # 409: another request for this key is on its way, and S3 lets the first one win.
            if response.get("ResponseMetadata", {}).get("HTTPStatusCode") in (409, 412):
                raise FileExistsError(errno.EEXIST, "exists", self.path(key)) from error
            raise

    @property
    def _fs(self) -> fsspec.AbstractFileSystem:
        """The file system, looked up at each use.

        fsspec caches one per process; a forked child cannot use its parent's S3 session.
        """
        if not self.is_local:
            require("s3fs")
        return fsspec.filesystem(self._scheme, **_OPTIONS.get(self._scheme, {}))

    @property
    def _scheme(self) -> str:
        return "file" if self.is_local else self.uri.partition("://")[0]


def _changed(facts: dict[str, Any]) -> float:
    # fsspec passes on the names of each backend: those of local files, and those of S3.
    return float(facts["mtime"]) if "mtime" in facts else facts["LastModified"].timestamp()
