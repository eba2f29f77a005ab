"""Objects of a store, on disk or on S3: read, list, delete, put, and create only if absent.

A handle holds the URI alone: it can be sent to any process, which opens the storage for itself.
Credentials and an endpoint come from the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`,
...), never from here, so that none of them travels or is written down.

On a disk, what was put or created survives power loss: its content is synced before its name
appears, and its folder afterwards.
"""

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
)
from tenacity import (
    Retrying,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)
from zarr.abc.store import Store as ZarrStore
from zarr.storage import FsspecStore, LocalStore

from pipeline.errors import InputError
from pipeline.retrying import status_of

Result = TypeVar("Result")

# More than one concurrent part adds a HEAD before every whole-object GET; a cached listing would
# miss the rows of other workers; a server that restarts is away for half a minute.
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {
        "max_concurrency": 1,
        "use_listings_cache": False,
        "config_kwargs": {"retries": {"mode": "standard", "total_max_attempts": 6}},
    },
}
PARTIAL = ".partial"  # the suffix of files in the making; zarr's own unfinished files have it too
_INSIDE = "content"  # the file that stands for an object where folders are renamed to create one
_SYNCS = 16  # files synced at a time: 48 took 407 ms one by one, and 26 ms so
_TOO_MANY = (408, 425, 429)  # statuses that botocore does not try again by itself
# What a file system answers to a request for a hard link if it has none. A read-only one never
# comes so far: the temporary file could not be written.
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EROFS, errno.EINVAL, errno.EXDEV}


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
        object.__setattr__(self, "uri", uri.rstrip("/"))

    @property
    def is_local(self) -> bool:
        """Whether it is a folder on a mounted file system."""
        return "://" not in self.uri

    def path(self, key: str) -> str:
        """Return the full address of a key, for messages and for other libraries."""
        return f"{self.uri}/{key}" if key else self.uri

    def read(self, key: str) -> bytes | None:
        """Return the object's content, None where there is none."""
        with access(self.uri), suppress(FileNotFoundError, NotADirectoryError):
            try:
                return _persistently(lambda: bytes(self._fs.cat_file(self.path(key))))  # pyright: ignore[reportArgumentType]
            except IsADirectoryError:
                return bytes(self._fs.cat_file(self.path(f"{key}/{_INSIDE}")))  # pyright: ignore[reportArgumentType]
        return None

    def read_all(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the contents of objects by key, read side by side; absent ones are left out."""
        if self.is_local or len(keys) < 2:
            found = {key: self.read(key) for key in keys}
            return {key: content for key, content in found.items() if content is not None}
        with access(self.uri):
            paths = [self.path(key) for key in keys]
            got: Any = _persistently(lambda: self._fs.cat(paths, on_error="return"))
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
            return f"{folder}/{min(fitting)}" if fitting else None
        return next((str(one["Key"]) for one in self._pages(prefix, most=1)), None)

    def facts(self, prefix: str = "") -> dict[str, tuple[int, float]]:
        """Return size, and time of the last change in seconds since 1970, of every object.

        Unlike `list`, this includes files that a killed writer left unfinished.
        """
        found = self._find(prefix, detail=True)
        return {key: (int(f["size"]), _changed(f)) for key, f in found.items()}

    def create(self, key: str, content: bytes) -> None:
        """Make an object that is whole or absent; FileExistsError where there is one already."""
        with access(self.uri):
            if not self.is_local:
                _persistently(lambda: self._create_remotely(key, content))
                return
            with self._beside(key, content) as temporary:
                try:
                    os.link(temporary, self.path(key))
                except OSError as error:
                    if error.errno not in _NO_LINKS:
                        raise
                    self._create_by_folder(key, temporary)
            _sync(Path(self.path(key)).parent)

    def put(self, contents: Mapping[str, bytes]) -> None:
        """Make or overwrite objects: a reader sees each whole, or not at all.

        All are synced side by side before any name appears, and their folders once.
        """
        with access(self.uri):
            if not self.is_local:
                paths = {self.path(key): content for key, content in contents.items()}
                _persistently(lambda: self._fs.pipe(paths))
                return
            with ThreadPoolExecutor(max_workers=min(_SYNCS, max(len(contents), 1))) as threads:
                list(threads.map(self._put_file, contents, contents.values()))
            for folder in {Path(self.path(key)).parent for key in contents}:
                _sync(folder)

    def copy(self, source: str, target: str) -> None:
        """Make an object with the content of another that never changes, without reading it.

        On a disk it is a second name of the same file, where the file system has these.
        """
        with access(self.uri):
            if not self.is_local:
                _persistently(lambda: self._fs.copy(self.path(source), self.path(target)))
                return
            there = Path(self.path(target))
            _make_folder(there.parent)
            try:
                os.link(self.path(source), there)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                shutil.copyfile(self.path(source), there)

    def sync(self, folder: str) -> None:
        """Make all that other libraries wrote into a folder survive power loss."""
        if not self.is_local:
            return
        paths = list(Path(self.path(folder)).rglob("*"))
        with ThreadPoolExecutor(max_workers=_SYNCS) as threads:
            list(threads.map(_sync, paths))
        _sync(Path(self.path(folder)))
        _sync(Path(self.path(folder)).parent)

    def delete(self, key: str) -> None:
        """Remove one object, or a folder with all that is in it; absent is fine."""
        with access(self.uri), suppress(FileNotFoundError):
            _persistently(lambda: self._fs.rm(self.path(key), recursive=True))

    def delete_all(self, keys: Sequence[str]) -> None:
        """Remove many objects, with as few requests as the storage allows."""
        if keys and self.is_local:
            for key in keys:
                self.delete(key)
            self._remove_empty_folders({Path(self.path(key)).parent for key in keys})
        elif keys:
            with access(self.uri), suppress(FileNotFoundError):
                _persistently(lambda: self._fs.rm([self.path(key) for key in keys]))

    def zarr(self, folder: str = "", read_only: bool = False) -> ZarrStore:
        """Return the folder as a Zarr store, opened in this process."""
        if self.is_local:
            return LocalStore(self.path(folder), read_only=read_only)
        options = {**_OPTIONS[self._scheme]}
        return FsspecStore.from_url(self.path(folder), storage_options=options, read_only=read_only)

    def _find(self, prefix: str, detail: bool) -> dict[str, Any]:
        if not self.is_local:
            return {str(one["Key"]): one for one in self._pages(f"{prefix}/" if prefix else "")}
        found: Any = {}
        with access(self.uri), suppress(FileNotFoundError):
            found = self._fs.find(self.path(prefix), detail=detail)
        root = len(self.uri) + 1
        keys = {key[root:]: found[key] if detail else None for key in sorted(found)}
        return {key.removesuffix(f"/{_INSIDE}"): about for key, about in keys.items()}

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
                answer = _persistently(lambda: self._fs.call_s3("list_objects_v2", **given))  # pyright: ignore[reportAttributeAccessIssue]
            for one in answer.get("Contents", ()):
                yield {**one, "Key": str(one["Key"]).removeprefix(base), "size": one["Size"]}
            if most is not None or not answer.get("IsTruncated"):
                return
            given["ContinuationToken"] = answer["NextContinuationToken"]

    def _remove_empty_folders(self, folders: set[Path]) -> None:
        for folder in sorted(folders, key=lambda one: len(one.parts), reverse=True):
            for one in (folder, *folder.parents):
                if one == Path(self.uri):
                    break
                try:
                    one.rmdir()
                except OSError:  # it is not empty
                    break

    def _create_by_folder(self, key: str, temporary: Path) -> None:
        """Rename a folder to the key: that fails where a folder that is not empty has the name.

        So two processes cannot both succeed, on file systems without hard links too. (Filling a
        file that was opened with O_EXCL would show it before it is whole.)
        """
        folder = temporary.with_name(f"{temporary.name}.folder{PARTIAL}")
        folder.mkdir()
        try:
            temporary.rename(folder / _INSIDE)
            _sync(folder)
            folder.rename(self.path(key))
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise FileExistsError(errno.EEXIST, "exists", self.path(key)) from error
            raise

    def _create_remotely(self, key: str, content: bytes) -> None:
        try:
            self._fs.pipe_file(self.path(key), content, mode="create")
        except OSError as error:
            # What s3fs makes of a failed precondition depends on how the server words it.
            response = getattr(error.__cause__, "response", {})
            # 409: another request for this key is on its way, and S3 lets the first one win.
            if response.get("ResponseMetadata", {}).get("HTTPStatusCode") in (409, 412):
                raise FileExistsError(errno.EEXIST, "exists", self.path(key)) from error
            raise

    def _put_file(self, key: str, content: bytes) -> None:
        with self._beside(key, content) as temporary:
            temporary.replace(self.path(key))

    @property
    def _fs(self) -> fsspec.AbstractFileSystem:
        """fsspec keeps one per process: a forked child cannot use its parent's S3 session."""
        return fsspec.filesystem(self._scheme, **_OPTIONS.get(self._scheme, {}))

    @property
    def _scheme(self) -> str:
        return "file" if self.is_local else self.uri.partition("://")[0]

    @contextmanager
    def _beside(self, key: str, content: bytes) -> Iterator[Path]:
        target = Path(self.path(key))
        temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex}{PARTIAL}")
        try:
            _write(temporary, content)
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


def _persistently(request: Callable[[], Result]) -> Result:
    """Make a request again, after a while, where the server says that there are too many."""
    attempts = Retrying(
        retry=retry_if_exception(lambda error: status_of(error) in _TOO_MANY),
        wait=wait_random_exponential(multiplier=0.5, max=30),
        stop=stop_after_attempt(6),
        reraise=True,
    )
    return attempts(request)


def _write(path: Path, content: bytes) -> None:
    """Write and sync a file in a folder that another process may be removing, as it is empty."""
    attempts = Retrying(
        retry=retry_if_exception_type(FileNotFoundError), stop=stop_after_attempt(5), reraise=True
    )
    for attempt in attempts:
        with attempt:
            _make_folder(path.parent)
            with path.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents, so that they survive power loss."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for one in reversed(missing):
        one.mkdir(exist_ok=True)
        _sync(one.parent)


def _sync(path: Path) -> None:
    """Make a file, or the names in a folder, survive power loss, where that can be done."""
    with suppress(OSError):  # some file systems cannot open a folder, and some not sync one
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _changed(facts: dict[str, Any]) -> float:
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
    """Say in one sentence why the storage refuses (InputError).

    What may pass goes on as an OSError that names the place; what is absent, as it was raised.
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
