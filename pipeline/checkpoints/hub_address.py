"""Parse addresses on the Hugging Face Hub, spelled as by huggingface_hub's file system."""

import re
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote

from pipeline.errors import InputError

_PART = r"[\w-][\w.-]*"  # of a repository's name: neither a hidden file nor ".."
_STEP = r"[^/@.\x00-\x1f][^/@\x00-\x1f]*"  # of a path; folders may be named `epoch=3-step=100`
_PATH = rf"{_STEP}(?:/{_STEP})*"
_URI = re.compile(
    rf"hf://(?P<kind>datasets/)?(?P<repo>{_PART}/{_PART})"
    # git allows no colon in the name of a branch or tag, so that `:commits` is part of none.
    rf"(?:@(?P<ref>[^/@:.][^/@:]*)(?P<commits>:commits)?(?:/(?P<inside>{_PATH}))?"
    rf"|/(?P<on_main>{_PATH}))?/?"
)
GIT_ID = re.compile(r"[0-9a-f]{40}")  # of a commit, or another object
_STATE_DICT = re.compile(r"checkpoints/[^/]*_\d{1,15}\.pth|([^/]*_)?init\.pth")
_EXPECTED = "hf://owner/name, hf://owner/name@branch or hf://owner/name@branch/folder"


@dataclass(frozen=True)
class Address:
    """An address: a repository, a commit or a pattern of refs, and a path in each.

    path: of a folder, or of a state dict (`.pth`). commits: every commit of the ref is meant.
    kind: "model" or "dataset".
    """

    repo: str
    ref: str | None = None
    path: str | None = None
    kind: str = "model"
    commits: bool = False

    def __str__(self) -> str:
        kind = "datasets/" if self.kind == "dataset" else ""
        ref = f"@{quote(self.ref, safe='*?[]')}" if self.ref else ""
        commits = ":commits" if self.commits else ""
        return f"hf://{kind}{self.repo}{ref}{commits}{f'/{self.path}' if self.path else ''}"

    @property
    def is_commit(self) -> bool:
        """Return whether it is pinned to one commit."""
        return self.ref is not None and GIT_ID.fullmatch(self.ref) is not None

    @property
    def is_state_dict(self) -> bool:
        """Return whether it is as that of a state dict of `hub_states.py`."""
        return self.path is not None and _STATE_DICT.fullmatch(self.path) is not None

    def at(self, commit: str, path: str | None = None) -> "Address":
        """Return the address of a path in a commit of the same repository."""
        return replace(self, ref=commit, path=path, commits=False)

    def below(self, path: str) -> str:
        """Return the path, in the repository, of one that is relative to this address."""
        return f"{self.path}/{path}" if self.path else path


def parse_address(uri: str) -> Address:
    """Parse a URI. Raises InputError if it is no address of a repository.

    A slash in the name of a branch is written `%2F`. A path without a ref is on the main branch.
    """
    match = _URI.fullmatch(uri)
    if match is None:
        raise InputError(f"{uri}: is no repository's address; expected {_EXPECTED}")
    ref = unquote(match["ref"]) if match["ref"] else None
    if match["on_main"]:
        ref = "main"
    return Address(
        repo=match["repo"],
        ref=ref,
        path=match["inside"] or match["on_main"],
        kind="dataset" if match["kind"] else "model",
        commits=match["commits"] is not None,
    )
