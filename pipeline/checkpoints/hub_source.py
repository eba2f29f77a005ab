"""Read repositories from the Hub or, where it may not or cannot be asked, from the local cache.

Listings of a commit are kept in our own cache: a commit never changes.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any, TypeVar

from pipeline.checkpoints import hub_api, hub_cache
from pipeline.checkpoints.cache import recall, remember
from pipeline.checkpoints.hub_address import Address
from pipeline.checkpoints.hub_rows import Ref, Row
from pipeline.errors import CheckpointError, InputError, first_line
from pipeline.outside import parsed_json
from pipeline.retrying import is_absent

Result = TypeVar("Result")

# Why each repository, by endpoint and address without a ref, is read from the local cache.
_read_locally: dict[tuple[str | None, str], str] = {}


def refs(address: Address) -> list[Ref]:
    """Return the tags and branches of a repository. Raises InputError if there is none."""
    return _either(address, lambda: hub_api.refs(address), lambda: hub_cache.refs(_whole(address)))


def history(commit: Address) -> list[Ref]:
    """Return the title of each commit that leads to this one, newest first."""

    def cached() -> list[Ref]:
        raise InputError(
            f"{commit}: the local cache has no messages of commits, from which steps are known: "
            "list it once while the Hub can be reached"
        )

    found = _remembered(
        "commits", commit, "", lambda: [astuple(one) for one in hub_api.history(commit)], cached
    )
    return [Ref(*one) for one in found]


def tree(commit: Address, folder: str = "", recursive: bool = False) -> list[Row]:
    """Return the files and folders in a folder of a commit, `recursive`: with those in them."""
    found = _remembered(
        "trees",
        commit,
        f"{folder} {recursive}",
        lambda: [astuple(row) for row in hub_api.tree(commit, folder, recursive)],
        lambda: [astuple(row) for row in hub_cache.tree(commit, folder, recursive)],
    )
    return [Row(*row) for row in found]


def read_part(commit: Address, path: str, start: int = 0, stop: int | None = None) -> bytes:
    """Return bytes `start` to `stop` of a file of a commit; fewer if it ends before."""
    return _either(
        commit,
        lambda: hub_api.read_part(commit, path, start, stop),
        lambda: hub_cache.read_part(commit, path, start, stop),
    )


def fetch_file(commit: Address, path: str, size: int, target: Path) -> None:
    """Write one file of a commit to `target`. Raises OSError if its size is not as listed."""
    _either(
        commit,
        lambda: hub_api.fetch_file(commit, path, size, target),
        lambda: hub_cache.fetch_file(commit, path, size, target),
    )


def why_local(address: Address) -> str:
    """Return why a repository was read from the local cache; "" if it was not."""
    return _read_locally.get(_key(address), "")


def _either(address: Address, online: Callable[[], Result], cached: Callable[[], Result]) -> Result:
    if hub_cache.is_offline():
        return _locally(address, "HF_HUB_OFFLINE is set", cached)
    try:
        found = online()
    except OSError as error:
        # Nobody answers: what was downloaded earlier is read, if anything.
        if not is_absent(error) or not hub_cache.holds(address):
            raise
        # What the cache lacks, the Hub may give once it answers: no checkpoint is damaged.
        with suppress(CheckpointError, InputError):
            return _locally(address, f"the Hub cannot be reached ({first_line(error)})", cached)
        raise
    _read_locally.pop(_key(address), None)
    return found


def _locally(address: Address, why: str, cached: Callable[[], Result]) -> Result:
    found = cached()
    _read_locally[_key(address)] = f"{why}: only what {hub_cache.folder_of(address)} holds is read"
    return found


def _remembered(
    what: str,
    commit: Address,
    part: str,
    online: Callable[[], Sequence[Any]],
    cached: Callable[[], Sequence[Any]],
) -> Sequence[Any]:
    """Return a listing of a commit, which never changes, from our own cache if it is there."""
    # With the endpoint: another one may be a mirror or a private hub, with other contents.
    key = f"{hub_api.endpoint()} {commit.kind} hf://{commit.repo}@{commit.ref} {part}"
    # Without a connection, the files that can be read are those of the library's cache.
    local = hub_cache.is_offline() and hub_cache.holds(commit)
    known = recall(what, key) if commit.is_commit and not (local and what == "trees") else None
    if known is not None:
        try:
            return parsed_json(known)
        except ValueError:  # damaged on disk
            pass

    def ask() -> Sequence[Any]:
        found = online()
        if commit.is_commit:
            remember(what, key, json.dumps(found).encode())
        return found

    return _either(commit, ask, cached)


def _whole(address: Address) -> Address:
    return Address(address.repo, kind=address.kind)


def _key(address: Address) -> tuple[str | None, str]:
    return hub_api.endpoint(), str(_whole(address))
