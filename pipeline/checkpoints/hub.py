"""A run in a repository on the Hugging Face Hub: a branch or tag per checkpoint.

`hf://owner/name` means all branches and tags that have a checkpoint's name;
`hf://owner/name@stage1-*` those that match the pattern. A checkpoint's own address is
`hf://owner/name@<commit>`: it means the same bytes for ever. The endpoint is `HF_ENDPOINT`'s, the
token `HF_TOKEN`'s or the one that `hf auth login` has stored: neither passes through here.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, hf_hub_url
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

from pipeline.checkpoints.cache import recall, remember
from pipeline.checkpoints.listing import SIDE_BY_SIDE
from pipeline.checkpoints.names import parse_name
from pipeline.checkpoints.retrying import persistently, spoken_of
from pipeline.checkpoints.stored import Files, Folder, StoredFile, Unit, known_sha256
from pipeline.errors import CheckpointError, InputError

WRITTEN_BY_THE: Unit = "commit"

_URI = re.compile(r"hf://(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<ref>[^/@]+))?/?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def folders(uri: str) -> list[Folder]:
    """The branches and tags with a checkpoint's name, from one request for all refs."""
    repo, pattern = _taken_apart(uri)
    with spoken_of(uri, "repository", InputError):
        refs = persistently(lambda: _api().list_repo_refs(repo))
    commits = {
        ref.name: ref.target_commit
        for ref in (*refs.tags, *refs.branches)
        if parse_name(ref.name) is not None and fnmatchcase(ref.name, pattern or "*")
    }
    _refuse_several_stages(uri, list(commits))
    places = [f"hf://{repo}@{commit}" for commit in commits.values()]
    return [
        Folder(name, place, files)
        for name, place, files in zip(commits, places, files_of(places), strict=True)
    ]


def files_of(uris: Sequence[str]) -> list[Files]:
    """The files at the top of each commit; asked for once, since a commit does not change."""
    with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
        return list(threads.map(_files, uris))


def read(uri: str, name: str, start: int = 0, stop: int | None = None) -> bytes:
    """Bytes `start` to `stop` of a file at the top of a commit; fewer where it ends before."""
    repo, ref = _taken_apart(uri)
    url = hf_hub_url(repo, name, revision=ref, endpoint=_endpoint())
    headers = build_hf_headers()
    if start or stop is not None:
        headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"

    def ask() -> bytes:
        response = http_backoff("GET", url, headers=headers)
        if response.status_code == 416:  # nothing there: the file ends before `start`
            return b""
        hf_raise_for_status(response)
        return response.content if response.status_code == 206 else response.content[start:stop]

    with spoken_of(f"{uri}/{name}", "file", CheckpointError):
        return persistently(ask)


def is_growing(folder: Folder) -> bool:
    """Never: a commit is whole or absent."""
    return False


def fetch(uri: str, file: StoredFile, target: Path) -> None:
    """Write one file of a commit to `target`."""
    with spoken_of(f"{uri}/{file.name}", "file", CheckpointError):
        persistently(lambda: _fetch_once(uri, file, target))


def _fetch_once(uri: str, file: StoredFile, target: Path) -> None:
    repo, ref = _taken_apart(uri)
    # The library resumes a transfer that was cut, from what it keeps beside the file.
    beside = Path(tempfile.mkdtemp(prefix="hub-", dir=target.parent))
    try:
        came = hf_hub_download(
            repo, file.name, revision=ref, local_dir=beside, endpoint=_endpoint()
        )
        size = Path(came).stat().st_size
        if size != file.size:
            raise OSError(f"{uri}/{file.name}: {size} bytes came, expected {file.size}")
        Path(came).replace(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _files(uri: str) -> dict[str, StoredFile]:
    repo, ref = _taken_apart(uri)
    ref = None if ref is None or "*" in ref else ref  # the run itself: what its main branch holds
    pinned = ref is not None and _COMMIT.fullmatch(ref)
    known = recall("trees", f"{_endpoint()} {uri}") if pinned else None
    if known is None:
        with spoken_of(uri, "commit", CheckpointError):
            rows = persistently(lambda: _tree(repo, ref))
        if pinned:
            remember("trees", f"{_endpoint()} {uri}", json.dumps(rows).encode())
    else:
        rows = json.loads(known)
    return {name: _stored(name, *facts) for name, *facts in rows}


def _tree(repo: str, ref: str | None) -> list[list]:
    """Name, size, git object and (of large files) sha256 of what is at the top of a commit."""
    return [
        [entry.path, entry.size, entry.blob_id, entry.lfs.sha256 if entry.lfs else None]
        for entry in _api().list_repo_tree(repo, revision=ref)
        if isinstance(entry, RepoFile)
    ]


def _stored(name: str, size: int, blob: str, sha256: str | None) -> StoredFile:
    identity = f"git {blob}" if sha256 is None else sha256
    return StoredFile(name, size, identity, sha256 or known_sha256(identity))


def _refuse_several_stages(uri: str, names: list[str]) -> None:
    stages = sorted({parsed.stage for name in names if (parsed := parse_name(name))})
    if len(stages) > 1:
        raise InputError(
            f"{uri}: holds checkpoints of {len(stages)} stages ({', '.join(stages)}), each of "
            f"which counts its own steps: choose one, such as {uri}@{stages[-1]}-*"
        )


def _taken_apart(uri: str) -> tuple[str, str | None]:
    match = _URI.fullmatch(uri)
    if match is None:
        raise InputError(f"{uri}: is no repository's address; expected hf://owner/name")
    return match["repo"], match["ref"]


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _api() -> HfApi:
    return HfApi(endpoint=_endpoint())
