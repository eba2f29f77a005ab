"""Objects of a store, on disk or on S3: read, list, delete, replace, and create only if absent.

A handle holds the URI only: it can be sent to any process, which opens the storage itself.
Credentials and an endpoint come from the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`,
...), never from a handle, so that none of them is pickled or stored.
"""

import errno
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
)
from zarr.abc.store import Store as ZarrStore
from zarr.storage import FsspecStore, LocalStore

from pipeline.errors import InputError

# With concurrent parts s3fs sends a HEAD before every GET of a whole object; a cached listing would
# miss the markers of other workers; a server that restarts is unavailable for half a minute.
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {
        "max_concurrency": 1,
        "use_listings_cache": False,
        "config_kwargs": {"retries": {"mode": "standard", "total_max_attempts": 6}},
    },
}
PARTIAL = ".partial"  # the suffix of unfinished files, also of those that zarr writes


def store_name(uri: str) -> str:
    """Return the name by which a store is known among others: the last part of its address."""
    return uri.rstrip("/").rpartition("/")[2].removesuffix(".zarr") or uri


@dataclass(frozen=True)
class Objects:
    """The objects under one URI: an absolute path, or `s3://bucket/prefix`."""

    uri: str

    def __post_init__(self) -> None:
        uri = self.uri.removeprefix("file://")
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
        """Return the object's content; None where there is no object."""
        with access(self.uri), suppress(FileNotFoundError, NotADirectoryError):
            return bytes(self._fs.cat_file(self.path(key)))  # pyright: ignore[reportArgumentType]

    def list(self, prefix: str = "") -> list[str]:
        """Return the sorted keys of all objects under a folder, without unfinished files."""
        return [key for key in self._find(prefix, detail=False) if not key.endswith(PARTIAL)]

    def facts(self, prefix: str = "") -> dict[str, tuple[int, float]]:
        """Return size and time of last change (seconds since 1970) of every object in a folder.

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
            with self._temporary_file(key, content) as temporary:
                # Atomic like `rename`, which would replace an existing file instead of failing.
                os.link(temporary, self.path(key))

    def replace(self, key: str, content: bytes) -> None:
        """Create or overwrite an object atomically: readers see the old content or the new."""
        with access(self.uri):
            if not self.is_local:
                self._fs.pipe_file(self.path(key), content)
                return
            with self._temporary_file(key, content) as temporary:
                temporary.replace(self.path(key))

    def delete(self, key: str) -> None:
        """Remove one object, or a folder with its content, if it exists."""
        with access(self.uri), suppress(FileNotFoundError):
            self._fs.rm(self.path(key), recursive=True)

    def delete_all(self, keys: Sequence[str]) -> None:
        """Remove many objects, with as few requests as the storage allows."""
        if keys:
            with access(self.uri), suppress(FileNotFoundError):
                self._fs.rm([self.path(key) for key in keys])

    def _find(self, prefix: str, detail: bool) -> dict[str, Any]:
        found: Any = {}
        with access(self.uri), suppress(FileNotFoundError):
            found = self._fs.find(self.path(prefix), detail=detail)
        # fsspec returns paths without the protocol; its function that removes it is private.
        root = len(str(self._fs._strip_protocol(self.uri))) + 1
        return {key[root:]: found[key] if detail else None for key in sorted(found)}

    def zarr(self, folder: str, read_only: bool = False) -> ZarrStore:
        """Return the folder as a Zarr store, opened in this process."""
        if self.is_local:
            return LocalStore(self.path(folder), read_only=read_only)
        options = {**_OPTIONS[self._scheme]}
        return FsspecStore.from_url(self.path(folder), storage_options=options, read_only=read_only)

    def _create_remotely(self, key: str, content: bytes) -> None:
        try:
            # s3fs sends `If-None-Match: *`, with which S3 creates an object only if absent.
            self._fs.pipe_file(self.path(key), content, mode="create")
        except OSError as error:
            # s3fs translates a failed precondition by the server's error code, and servers differ;
            # the HTTP status is always 412.
            response = getattr(error.__cause__, "response", {})
            if response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 412:
                raise FileExistsError(errno.EEXIST, "exists", self.path(key)) from error
            raise

    @property
    def _fs(self) -> fsspec.AbstractFileSystem:
        """The file system, looked up at each use.

        fsspec caches one per process; a forked child cannot use its parent's S3 session.
        """
        return fsspec.filesystem(self._scheme, **_OPTIONS.get(self._scheme, {}))

    @property
    def _scheme(self) -> str:
        return "file" if self.is_local else self.uri.partition("://")[0]

    @contextmanager
    def _temporary_file(self, key: str, content: bytes) -> Iterator[Path]:
        target = Path(self.path(key))
        target.parent.mkdir(parents=True, exist_ok=True)
        # In the same folder, and so on the same file system, where links and renames are atomic.
        temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex}{PARTIAL}")
        try:
            temporary.write_bytes(content)
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


def _changed(facts: dict[str, Any]) -> float:
    # fsspec passes on the names of each backend: those of local files, and those of S3.
    return float(facts["mtime"]) if "mtime" in facts else facts["LastModified"].timestamp()


_DENIED = "access is denied: check the permissions, or the bucket's policy and your keys"
_REFUSED = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "the disk quota is used up: free some space",
    errno.EROFS: "the file system is read-only: choose a place that can be written",
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
}


@contextmanager
def access(uri: str) -> Iterator[None]:
    """Raise InputError where the storage refuses access for good, with the reason.

    Errors that may be temporary become an OSError that names the URI. FileNotFoundError,
    FileExistsError and NotADirectoryError pass unchanged.
    """
    try:
        yield
    except (FileNotFoundError, FileExistsError, NotADirectoryError, InputError):
        raise
    except (OSError, BotoCoreError, ClientError) as error:
        reason = _REFUSED.get(getattr(error, "errno", None) or 0)
        if isinstance(error, (PermissionError, NoCredentialsError, PartialCredentialsError)):
            reason = reason or _DENIED
        if reason is not None:
            raise InputError(f"{uri}: {reason}; what was committed is safe") from error
        raise OSError(f"{uri}: cannot be reached ({error}): try again later") from error
