"""Requests to the Hugging Face Hub, with retries: list files, read parts of them, download them.

huggingface_hub itself reads the token from `HF_TOKEN` or from the file that `hf auth login` wrote:
no token is handled here. The endpoint is that of `HF_ENDPOINT`.
"""

import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download, hf_hub_url, set_client_factory
from huggingface_hub.hf_api import GitRefs, RepoFile
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff
from huggingface_hub.utils._http import default_client_factory

from pipeline.checkpoints.cache import recall, remember
from pipeline.checkpoints.stored import StoredFile, known_sha256
from pipeline.errors import CheckpointError, InputError
from pipeline.retrying import is_absent, persistently, translated_errors

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
    with translated_errors(str(address), "repository", InputError):
        return persistently(lambda: _api().list_repo_refs(address.repo))


def files_in(address: Address, folder: str = "") -> dict[str, StoredFile]:
    """Return the files directly in a folder of a commit; cached, since commits are immutable."""
    # The files of a run, or of a pattern of refs, are those of the main branch.
    ref = None if address.ref is None or "*" in address.ref else address.ref
    pinned = ref is not None and _COMMIT.fullmatch(ref)
    # With the endpoint: another one may be a mirror or a private hub, with other contents.
    key = f"{_endpoint()} hf://{address.repo}@{ref} {folder}"
    known = recall("trees", key) if pinned else None
    if known is None:
        with translated_errors(str(address), "commit", CheckpointError):
            rows = persistently(lambda: _tree(address.repo, ref, folder))
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


def _tree(repo: str, ref: str | None, folder: str) -> list[list]:
    """Return name, size, git object and (of LFS files) sha256 of the files in a folder."""
    return [
        [
            entry.path.removeprefix(f"{folder}/"),
            entry.size,
            entry.blob_id,
            entry.lfs.sha256 if entry.lfs else None,
        ]
        for entry in _api().list_repo_tree(repo, folder or None, revision=ref)
        if isinstance(entry, RepoFile)
    ]


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
