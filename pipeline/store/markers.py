"""Commit markers: a row of a measure exists when its marker does.

A marker is one small object, `_commits/<group>/<step>.<row>.<variant>-<weights>`, made after all
arrays of its row and only if absent. Its name says what the row is, so that one listing tells
everything that is stored; its content (JSON) holds checksums of the row's arrays and details.
"""

import re
from collections.abc import Container, Iterable
from dataclasses import dataclass

FOLDER = "_commits"
_NAME = re.compile(r"(?P<step>\d+)\.(?P<row>\d+)\.(?P<fingerprint>[0-9a-f]+-[0-9a-f]+)")


@dataclass(frozen=True, order=True)
class Commit:
    """One committed row, read from the name of its marker alone."""

    group: str
    step: int
    row: int
    fingerprint: str

    @property
    def variant(self) -> str:
        """What the row shares with all rows it may be shown beside."""
        return self.fingerprint.partition("-")[0]

    @property
    def weights(self) -> str:
        """The beginning of the digest of the checkpoint's weights."""
        return self.fingerprint.partition("-")[2]

    def is_of(self, digest: str) -> bool:
        """Whether the row is of the weights with this digest."""
        return digest.startswith(self.weights)

    @property
    def key(self) -> str:
        """The marker's key in the store."""
        return f"{FOLDER}/{self.group}/{self.step}.{self.row}.{self.fingerprint}"


def parse(key: str) -> Commit | None:
    """The commit that a key of the store stands for; None for a file that is no marker."""
    folder, _, rest = key.partition("/")
    group, _, name = rest.rpartition("/")
    match = _NAME.fullmatch(name)
    if folder != FOLDER or not group or match is None:
        return None
    return Commit(group, int(match["step"]), int(match["row"]), match["fingerprint"])


def latest(commits: Iterable[Commit], variant: str) -> dict[int, Commit]:
    """The row of each step that stands, in order of step: the last one that was reserved.

    A step is done when its LATEST row has the wanted fingerprint. An earlier one is not enough:
    weights that changed and changed back would otherwise stay hidden behind the row between.
    """
    found: dict[int, Commit] = {}
    for commit in sorted(commits):
        if commit.variant == variant:
            found[commit.step] = commit
    return found


def shown(commits: Iterable[Commit], variant: str, masked: Container[int]) -> list[Commit]:
    """The rows that readers are shown, in order of step: those that stand, of no masked step."""
    return [commit for commit in latest(commits, variant).values() if commit.step not in masked]
