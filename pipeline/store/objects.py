"""Objects of a store, on disk or on S3: read, list, delete, put, and create only if absent.

A handle holds the URI only: it can be sent to any process, which opens the storage itself.
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
from typing import Any

import fsspec
from zarr.abc.store import Store as ZarrStore
from zarr.storage import FsspecStore, LocalStore

from pipeline.addresses import require_no_secret
from pipeline.errors import InputError
from pipeline.extras import require
from pipeline.retrying import ATTEMPTS, is_one_of, lacks_credentials

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
PARTIAL = ".partial"  # the suffix of files in the making; zarr's own unfinished files have it too
_INSIDE = "content"  # the file that stands for an object where folders are renamed to create one
_SYNCS = 16  # files synced at a time: 48 took 407 ms one by one, and 26 ms so
# What a file system answers to a request for a hard link if it has none. A read-only one never
# comes so far: the temporary file could not be written.
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EROFS, errno.EINVAL, errno.EXDEV}


def store_name(uri: str) -> str:
    """Return the name by which a store is known among others: the last part of its address."""
    return uri.rstrip("/").rpartition("/")[2].removesuffix(".zarr") or uri


def store_names(uris: Sequence[str]) -> dict[str, str]:
    """Return stores by the names that tell them apart: with more of the address where one is not.

    `a/run.zarr` and `b/run.zarr` are "a/run" and "b/run". Raises InputError for a store that is
    given twice.
    """
    for count in range(1, max((len(_parts(uri)) for uri in uris), default=1) + 1):
        names = {"/".join(_parts(uri)[-count:]) or uri: uri for uri in uris}
        if len(names) == len(uris):
            return {store_name(uri): uri for uri in uris} if count == 1 else names
    twice = next(uri for at, uri in enumerate(uris) if _parts(uri) in map(_parts, uris[:at]))
    raise InputError(f"{twice} is given twice: give each store once")


def _parts(uri: str) -> list[str]:
    return uri.rstrip("/").removesuffix(".zarr").split("/")


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
                return bytes(self._fs.cat_file(self.path(f"{key}/{_INSIDE}")))  # pyright: ignore[reportArgumentType]
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
            self._place(key, content, self._link)
            _sync(Path(self.path(key)).parent)

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
                list(threads.map(self._put_file, contents, contents.values()))
            for folder in {Path(self.path(key)).parent for key in contents}:
                _sync(folder)

    def copy(self, source: str, target: str) -> None:
        """Make an object with the content of another that never changes, without reading it.

        On a disk it is a second name of the same file, where the file system has these.
        """
        with access(self.uri):
            if not self.is_local:
                self._fs.copy(self.path(source), self.path(target))
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
        """Remove one object, or a folder with its content, if it exists."""
        with access(self.uri), suppress(FileNotFoundError):
            self._fs.rm(self.path(key), recursive=True)

    def delete_all(self, keys: Sequence[str]) -> None:
        """Remove many objects, with as few requests as the storage allows."""
        if keys and self.is_local:
            for key in keys:
                self.delete(key)
            self._remove_empty_folders({Path(self.path(key)).parent for key in keys})
        elif keys:
            with access(self.uri), suppress(FileNotFoundError):
                self._fs.rm([self.path(key) for key in keys])

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
                answer = self._fs.call_s3("list_objects_v2", **given)  # pyright: ignore[reportAttributeAccessIssue]
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

    def _put_file(self, key: str, content: bytes) -> None:
        self._place(key, content, lambda temporary, target: temporary.replace(target))

    def _link(self, temporary: Path, target: Path) -> None:
        try:
            os.link(temporary, target)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            _rename_folder(temporary, target)

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

    def _place(self, key: str, content: bytes, place: Callable[[Path, Path], Any]) -> None:
        """Write a file of a fresh name beside the object's, sync it, and give it its name.

        Done again where the file or its folder is gone: who reclaims removes empty folders, and
        files that seem to be left behind.
        """
        from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

        target = Path(self.path(key))
        temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex}{PARTIAL}")
        attempts = Retrying(
            retry=retry_if_exception_type(FileNotFoundError),
            stop=stop_after_attempt(ATTEMPTS),
            reraise=True,
        )
        for attempt in attempts:
            with attempt:
                try:
                    _make_folder(target.parent)
                    _write(temporary, content)
                    place(temporary, target)
                finally:
                    temporary.unlink(missing_ok=True)


def _rename_folder(temporary: Path, target: Path) -> None:
    """Create a target by renaming a folder to it. Raises FileExistsError.

    That fails where a folder that is not empty has the name, so that two processes cannot both
    succeed, on file systems without hard links too. (Filling a file that was opened with O_EXCL
    would show it before it is whole.)
    """
    folder = temporary.with_name(f"{temporary.name}.folder{PARTIAL}")
    folder.mkdir()
    try:
        temporary.rename(folder / _INSIDE)
        _sync(folder)
        folder.rename(target)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise FileExistsError(errno.EEXIST, "exists", str(target)) from error
        raise


def _write(path: Path, content: bytes) -> None:
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
    except Exception as error:
        of_s3 = is_one_of(error, "botocore.exceptions", "BotoCoreError", "ClientError")
        if not (of_s3 or isinstance(error, OSError)):
            raise
        reason = _REFUSED.get(getattr(error, "errno", None) or 0)
        if isinstance(error, PermissionError) or lacks_credentials(error):
            reason = reason or _DENIED
        if reason is not None:
            raise InputError(f"{uri}: {reason}; what was committed is safe") from error
        raise OSError(f"{uri}: cannot be reached ({error}): try again later") from error
