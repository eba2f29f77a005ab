"""Committed rows: a row of a group exists when an object with its name does.

A row is one object, `packs/<generation>/<group>/<step>.<number>.<id>.<variant>-<weights>`:

    generation   in which it was written (see `versions`)
    number       of the version that planned it: of two rows of a step, the later planned one stands
    id           16 random hex digits, so that no two writers ever make the same object
    variant      what the row shares with all rows that it may be shown beside
    weights      the beginning of the digest of the checkpoint's weights

So one listing tells what is stored. What the object contains is described in `packs`.
"""

import re
import uuid
from collections.abc import Container, Iterable
from dataclasses import dataclass

PACKS = "packs"
LARGE = "large"
_NAME = re.compile(
    r"(?P<step>\d+)\.(?P<number>\d+)\.(?P<id>[0-9a-f]{16})\.(?P<fingerprint>[0-9a-f]+-[0-9a-f]+)"
)


@dataclass(frozen=True, order=True)
class Commit:
    """One row, as its name tells. Rows of a group are ordered by step, and then as they stand."""

    group: str
    step: int
    number: int
    id: str
    fingerprint: str
    generation: int

    @property
    def variant(self) -> str:
        """The part of the fingerprint that rows shown side by side have in common."""
        return self.fingerprint.partition("-")[0]

    @property
    def weights(self) -> str:
        """The beginning of the digest of the checkpoint's weights."""
        return self.fingerprint.partition("-")[2]

    def is_of(self, digest: str) -> bool:
        """Tell whether the row is of the weights with this digest."""
        return digest.startswith(self.weights)

    @property
    def name(self) -> str:
        """The last part of its key."""
        return f"{self.step}.{self.number}.{self.id}.{self.fingerprint}"

    @property
    def key(self) -> str:
        """The key of the row's object."""
        return f"{PACKS}/{self.generation}/{self.group}/{self.name}"

    def large_key(self, variable: str) -> str:
        """Return the key of the object that holds one of the row's large variables."""
        return f"{LARGE}/{self.generation}/{self.group}/{self.name}/{variable}"


def fresh_id() -> str:
    """Return 16 random hex digits."""
    return uuid.uuid4().hex[:16]


def parse(key: str) -> Commit | None:
    """Return the row that a key of the store names; None for another object."""
    parts = key.split("/")
    if len(parts) != 4 or parts[0] != PACKS or not parts[1].isdecimal():
        return None
    return named(parts[2], int(parts[1]), parts[3])


def named(group: str, generation: int, name: str) -> Commit | None:
    """Return the row of a group with this name; None where that is no name of a row."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    step, number = int(match["step"]), int(match["number"])
    return Commit(group, step, number, match["id"], match["fingerprint"], generation)


def latest(commits: Iterable[Commit], variant: str) -> dict[int, Commit]:
    """Return the row of each step that stands, in order of step: the one that was planned last.

    A step is done when its LATEST row has the wanted fingerprint. An earlier one is not enough:
    weights that changed and changed back would otherwise stay hidden behind the row between.
    """
    found: dict[int, Commit] = {}
    for commit in sorted(commits):
        if commit.variant == variant:
            found[commit.step] = commit
    return found


def shown(commits: Iterable[Commit], variant: str, masked: Container[int]) -> list[Commit]:
    """Return the rows that readers are shown, in order of step: those that stand, not masked."""
    return [commit for commit in latest(commits, variant).values() if commit.step not in masked]
