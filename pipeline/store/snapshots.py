"""A version of a store with the rows that are committed, from a listing of each open generation."""

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.store.commits import PACKS, Commit, parse
from pipeline.store.objects import Objects
from pipeline.store.versions import Version


@dataclass(frozen=True)
class Snapshot:
    """One version of a store, with the rows that were committed when it was read."""

    version: Version
    commits: tuple[Commit, ...]

    def of(self, group: str) -> list[Commit]:
        """Return the rows of a group, of all variants."""
        return [commit for commit in self.commits if commit.group == group]


def rows_of(objects: Objects, version: Version) -> list[Commit]:
    """Return the rows that are committed: those a version names, and those written since."""
    found = dict.fromkeys([*version.rows, *listed(objects, version.unsealed)])
    return [commit for commit in found if commit.key not in version.dropped]


def listed(objects: Objects, generations: Iterable[int]) -> list[Commit]:
    """Return the rows that are there of some generations: a request for each."""
    keys = [key for one in generations for key in objects.list(f"{PACKS}/{one}")]
    return [commit for key in keys if (commit := parse(key)) is not None]
