"""Requests to the Hugging Face Hub, with retries: list files, read parts of them, download them.

huggingface_hub itself reads the token from `HF_TOKEN` or from the file that `hf auth login` wrote:
no token is handled here. The endpoint is that of `HF_ENDPOINT`.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download, hf_hub_url, set_client_factory
from huggingface_hub.hf_api import GitRefs, RepoFile
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff
from huggingface_hub.utils._http import default_client_factory

from pipeline.checkpoints.cache import recall, remember
from pipeline.checkpoints.stored import StoredFile, known_sha256
from pipeline.errors import CheckpointError, InputError, first_line
from pipeline.outside import is_whole
from pipeline.retrying import is_absent, persistently, status_of, translated_errors

_PART = r"[\w-][\w.-]*"  # neither a hidden file nor ".."
_URI = re.compile(
    rf"hf://(?P<repo>{_PART}/{_PART})"
    rf"(?:@(?P<ref>[^/@]+)(?:/(?P<path>(?:{_PART}/)*{_PART}\.pth))?)?/?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Address:
    """An address: a repository, a commit or a pattern of refs, and the path of a state dict."""

    repo: str
    ref: str | None = None
    path: str | None = None

    def __str__(self) -> str:
        ref = f"@{self.ref}" if self.ref else ""
        return f"hf://{self.repo}{ref}{f'/{self.path}' if self.path else ''}"


def parse_address(uri: str) -> Address:
    """Parse a URI. Raises InputError if it is no address of a repository."""
    match = _URI.fullmatch(uri)
    if match is None:
        raise InputError(f"{uri}: is no repository's address; expected hf://owner/name")
    return Address(match["repo"], match["ref"], match["path"])


def refs(address: Address) -> GitRefs:
    """Return all branches and tags, in one request."""

    def ask() -> GitRefs:
        with _sound_answer(str(address), InputError):
            return _checked(_api().list_repo_refs(address.repo))

    with translated_errors(str(address), "repository", InputError):
        return persistently(ask)


def _checked(found: GitRefs) -> GitRefs:
    """Return refs. Raises TypeError where one has no name or no commit."""
    for ref in (*found.branches, *found.tags):
        if not isinstance(ref.name, str) or not _COMMIT.fullmatch(str(ref.target_commit)):
            raise TypeError(f"the ref {ref.name!r} has the commit {ref.target_commit!r}")
    return found


@contextmanager
def _sound_answer(place: str, refusal: type[InputError] | type[CheckpointError]) -> Iterator[None]:
    """Raise `refusal` for an answer of a hub that is not what huggingface_hub expects."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        if status_of(error) is not None or isinstance(error, OSError | InputError):
            raise
        raise refusal(
            f"{place}: the hub's answer is not understood ({type(error).__name__}: "
            f"{first_line(error)}): check HF_ENDPOINT, and that no proxy answers in its place"
        ) from error


def files_in(address: Address, folder: str = "") -> dict[str, StoredFile]:
    """Return the files directly in a folder of a commit; cached, since commits are immutable."""
    # The files of a run, or of a pattern of refs, are those of the main branch.
    ref = None if address.ref is None or "*" in address.ref else address.ref
    pinned = ref is not None and _COMMIT.fullmatch(ref)
    # With the endpoint: another one may be a mirror or a private hub, with other contents.
    key = f"{_endpoint()} hf://{address.repo}@{ref} {folder}"
    known = recall("trees", key) if pinned else None
    if known is not None and not known.endswith(b"]"):  # damaged on disk
        known = None
    if known is None:
        rows = _asked_for_files(address, ref, folder)
        if pinned:
            remember("trees", key, json.dumps(rows).encode())
    else:
        rows = json.loads(known)
    return {name: _stored(name, *facts) for name, *facts in rows}


def read_part(address: Address, path: str, start: int = 0, stop: int | None = None) -> bytes:
    """Return bytes `start` to `stop` of a file of a commit; fewer if it ends before."""
    url = hf_hub_url(address.repo, path, revision=address.ref, endpoint=_endpoint())
    headers = build_hf_headers()
    if start or stop is not None:
        headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"

    def ask() -> bytes:
        response = http_backoff("GET", url, headers=headers)
        if response.status_code == 416:  # range not satisfiable: the file ends before `start`
            return b""
        hf_raise_for_status(response)
        # A server without support for ranges answers 200 with the whole file.
        return response.content if response.status_code == 206 else response.content[start:stop]

    with translated_errors(f"{address}/{path}", "file", CheckpointError):
        return persistently(ask)


def fetch_file(address: Address, path: str, size: int, target: Path) -> None:
    """Download one file of a commit to `target`. Raises OSError if its size is not as listed."""
    with translated_errors(f"{address}/{path}", "file", CheckpointError):
        persistently(lambda: _fetch_once(address, path, size, target))


def _fetch_once(address: Address, path: str, size: int, target: Path) -> None:
    # hf_hub_download resumes an interrupted transfer from a partial file, which it keeps with its
    # metadata beside the target: a folder of its own is removed with them.
    beside = Path(tempfile.mkdtemp(prefix="hub-", dir=target.parent))
    try:
        came = hf_hub_download(
            address.repo, path, revision=address.ref, local_dir=beside, endpoint=_endpoint()
        )
        if (found := Path(came).stat().st_size) != size:
            raise OSError(f"{address}/{path}: received {found} bytes, expected {size}")
        Path(came).replace(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _asked_for_files(address: Address, ref: str | None, folder: str) -> list[list]:
    def ask() -> list[list]:
        with _sound_answer(str(address), CheckpointError):
            return _tree(address.repo, ref, folder)

    with translated_errors(str(address), "commit", CheckpointError):
        return persistently(ask)


def _tree(repo: str, ref: str | None, folder: str) -> list[list]:
    """Return name, size, git object and (of LFS files) sha256 of the files in a folder."""
    rows = [
        [
            entry.path.removeprefix(f"{folder}/"),
            entry.size,
            entry.blob_id,
            entry.lfs.sha256 if entry.lfs else None,
        ]
        for entry in _api().list_repo_tree(repo, folder or None, revision=ref)
        if isinstance(entry, RepoFile)
    ]
    for name, size, blob, sha256 in rows:
        if not (isinstance(name, str) and isinstance(blob, str) and is_whole(size)):
            raise TypeError(f"the file {name!r} has the size {size!r} and the object {blob!r}")
        if not isinstance(sha256, str | None):
            raise TypeError(f"the file {name!r} has the sha256 {sha256!r}")
    return rows


def _stored(name: str, size: int, blob: str, sha256: str | None) -> StoredFile:
    identity = f"git {blob}" if sha256 is None else sha256
    return StoredFile(name, size, identity, sha256 or known_sha256(identity))


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _api() -> HfApi:
    return HfApi(endpoint=_endpoint())


def _client() -> Any:
    """Return huggingface_hub's default HTTP client, without its retries of refused connections."""
    # http_backoff would retry each six times, for 23 s in total, within each of our own attempts.
    # It retries certain exceptions only, and ConnectionRefusedError is none of them. The library
    # has no setting for this, and its default factory is private.
    client = default_client_factory()
    send = client.send

    def send_or_tell(*arguments: Any, **options: Any) -> Any:
        try:
            return send(*arguments, **options)
        except Exception as error:
            if is_absent(error):
                raise ConnectionRefusedError(str(error)) from error
            raise

    client.send = send_or_tell
    return client


set_client_factory(_client)
