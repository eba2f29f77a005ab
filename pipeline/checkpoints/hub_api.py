"""Requests to the Hugging Face Hub: list refs, commits and files, read parts of files, download.

huggingface_hub itself reads the token from `HF_TOKEN` or from the file that `hf auth login` wrote:
no token is handled here. The endpoint is that of `HF_ENDPOINT`.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, hf_hub_url
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status
from huggingface_hub.utils._pagination import paginate

from pipeline.checkpoints.hub_address import GIT_ID, Address
from pipeline.checkpoints.hub_client import asked
from pipeline.checkpoints.hub_rows import Ref, Row
from pipeline.errors import CheckpointError, InputError, first_line
from pipeline.retrying import status_of, translated_errors

# Entries of one listing; a page has 1,000. Runs have some 10 files for each checkpoint.
MOST_ENTRIES = 200_000
_PAGE = 1000  # commits; the Hub's own default is a twentieth of that


def refs(address: Address) -> list[Ref]:
    """Return all tags and branches, in one request."""

    def ask() -> list[Ref]:
        with _sound_answer(str(address), InputError):
            found = _api().list_repo_refs(address.repo, repo_type=address.kind)
            return _checked(
                [
                    *(Ref(one.name, one.target_commit) for one in found.tags),
                    *(Ref(one.name, one.target_commit, True) for one in found.branches),
                ]
            )

    with translated_errors(str(address), "repository", InputError):
        return asked(ask)


def history(commit: Address) -> list[Ref]:
    """Return the title of each commit that leads to this one, newest first, 1,000 a request."""

    def ask() -> list[Ref]:
        # list_repo_commits has no argument for the size of a page: 5,000 commits would take 100
        # requests.
        url = f"{_api().endpoint}/api/{commit.kind}s/{commit.repo}/commits/{commit.ref}"
        pages = paginate(url, params={"limit": _PAGE}, headers=build_hf_headers())
        with _sound_answer(str(commit), InputError):
            found = [Ref(one["title"], one["id"]) for one in islice(pages, MOST_ENTRIES)]
            return _checked(found)

    with translated_errors(str(commit), "commit", InputError):
        return asked(ask)


def tree(commit: Address, folder: str, recursive: bool) -> list[Row]:
    """Return the files and folders in a folder of a commit, `recursive`: with those in them.

    Raises InputError for more entries than `MOST_ENTRIES`.
    """

    def ask() -> list[Row]:
        with _sound_answer(str(commit), CheckpointError):
            return _tree(commit, folder, recursive)

    with translated_errors(str(commit), "commit or folder", CheckpointError):
        return asked(ask)


def read_part(address: Address, path: str, start: int = 0, stop: int | None = None) -> bytes:
    """Return bytes `start` to `stop` of a file of a commit; fewer if it ends before."""
    url = hf_hub_url(
        address.repo, path, repo_type=address.kind, revision=address.ref, endpoint=endpoint()
    )
    headers = build_hf_headers()
    if start or stop is not None:
        headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"

    def ask() -> bytes:
        response = get_session().get(url, headers=headers)
        if response.status_code == 416:  # range not satisfiable: the file ends before `start`
            return b""
        hf_raise_for_status(response)
        # A server without support for ranges answers 200 with the whole file.
        return response.content if response.status_code == 206 else response.content[start:stop]

    with translated_errors(f"{address}/{path}", "file", CheckpointError):
        return asked(ask)


def fetch_file(address: Address, path: str, size: int, target: Path) -> None:
    """Download one file of a commit to `target`. Raises OSError if its size is not as listed."""
    with translated_errors(f"{address}/{path}", "file", CheckpointError):
        asked(lambda: _fetch_once(address, path, size, target))


def endpoint() -> str | None:
    """Return the endpoint that is not the public Hub's; None for that one.

    Raises InputError if `HF_ENDPOINT` is no address.
    """
    given = os.environ.get("HF_ENDPOINT") or None
    if given is not None and not given.startswith(("http://", "https://")):
        raise InputError(
            "HF_ENDPOINT: expected an address that begins with https:// or http://, such as "
            "https://huggingface.co"
        )
    return given


def _fetch_once(address: Address, path: str, size: int, target: Path) -> None:
    # hf_hub_download resumes an interrupted transfer from a partial file, which it keeps with its
    # metadata beside the target: a folder of its own is removed with them.
    beside = Path(tempfile.mkdtemp(prefix="hub-", dir=target.parent))
    try:
        came = hf_hub_download(
            address.repo,
            path,
            repo_type=address.kind,
            revision=address.ref,
            local_dir=beside,
            endpoint=endpoint(),
        )
        if (found := Path(came).stat().st_size) != size:
            raise OSError(f"{address}/{path}: received {found} bytes, expected {size}")
        Path(came).replace(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _tree(commit: Address, folder: str, recursive: bool) -> list[Row]:
    found = _api().list_repo_tree(
        commit.repo,
        folder or None,
        recursive=recursive,
        revision=commit.ref,
        repo_type=commit.kind,
    )
    entries = list(islice(found, MOST_ENTRIES + 1))
    if len(entries) > MOST_ENTRIES:
        raise InputError(
            f"{commit}/{folder}: holds more than {MOST_ENTRIES:,} files: give the folder in which "
            f"the checkpoints are, as in hf://{commit.repo}/folder"
        )
    return [
        Row(one.path, one.size, one.blob_id, one.lfs.sha256 if one.lfs else None).checked(True)
        if isinstance(one, RepoFile)
        else Row(one.path).checked(False)
        for one in entries
    ]


def _checked(found: list[Ref]) -> list[Ref]:
    """Return refs. Raises TypeError where one has no name or no commit."""
    for one in found:
        if not isinstance(one.name, str) or not GIT_ID.fullmatch(str(one.commit)):
            raise TypeError(f"the ref {one.name!r} has the commit {one.commit!r}")
    return found


@contextmanager
def _sound_answer(place: str, refusal: type[InputError] | type[CheckpointError]) -> Iterator[None]:
    """Raise `refusal` for an answer of a hub that is not what huggingface_hub expects."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        # UnicodeEncodeError: of a header of the request, see `hub_client.py`.
        if status_of(error) is not None or isinstance(
            error, OSError | InputError | UnicodeEncodeError
        ):
            raise
        raise refusal(
            f"{place}: the hub's answer is not understood ({type(error).__name__}: "
            f"{first_line(error)}): check HF_ENDPOINT, and that no proxy answers in its place"
        ) from error


def _api() -> HfApi:
    return HfApi(endpoint=endpoint())
