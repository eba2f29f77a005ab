"""Commit markers: a row of a measure exists when its marker does.

A marker is one small object, `_commits/<group>/<step>.<row>.<variant>-<weights>`, created after all
arrays of its row and only if absent. Its name identifies the row, so that one listing shows
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
        """The part of the fingerprint that rows read as one series share."""
        return self.fingerprint.partition("-")[0]

    @property
    def weights(self) -> str:
        """The beginning of the digest of the checkpoint's weights."""
        return self.fingerprint.partition("-")[2]

    def is_of(self, digest: str) -> bool:
        """Return whether the row was computed from the weights with this digest."""
        return digest.startswith(self.weights)

    @property
    def key(self) -> str:
        """The marker's key in the store."""
        return f"{FOLDER}/{self.group}/{self.step}.{self.row}.{self.fingerprint}"


def parse(key: str) -> Commit | None:
    """Return the commit that a key of the store identifies; None for a file that is no marker."""
    # Files of other tools, or of another version, are no error.
    folder, _, rest = key.partition("/")
    group, _, name = rest.rpartition("/")
    match = _NAME.fullmatch(name)
    if folder != FOLDER or not group or match is None:
        return None
    return Commit(group, int(match["step"]), int(match["row"]), match["fingerprint"])


def latest(commits: Iterable[Commit], variant: str) -> dict[int, Commit]:
    """Return the valid row of each step, in order of step: the last one that was reserved.

    A step is done when its LATEST row has the required fingerprint. An earlier one is not enough:
    where weights changed and changed back, readers would be shown the row in between.
    """
    found: dict[int, Commit] = {}
    for commit in sorted(commits):  # by group, step and row: later rows replace earlier ones
        if commit.variant == variant:
            found[commit.step] = commit
    return found


def shown(commits: Iterable[Commit], variant: str, masked: Container[int]) -> list[Commit]:
    """Return the rows that readers see, in order of step: the latest ones, without masked steps."""
    return [commit for commit in latest(commits, variant).values() if commit.step not in masked]
