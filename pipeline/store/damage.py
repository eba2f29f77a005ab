"""Something in a store that is not as it was written, and what repairs it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.errors import first_line
from pipeline.store.commits import Commit


@dataclass(frozen=True)
class Damage:
    """Something that is not as it was written.

    commit: the row. folder: of the trajectories. key: of an object that the next analysis makes
    anew. made_anew: what an object has to contain. At most one is given; none where nothing can be
    rebuilt.
    """

    where: str
    what: str
    commit: Commit | None = None
    folder: str | None = None
    key: str | None = None
    made_anew: Mapping[str, bytes] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def of_row(commit: Commit, what: str) -> Damage:
    """Return the damage of a row. what: the fault, as the end of a sentence about the row."""
    return Damage(f"{commit.group} at step {commit.step} ({commit.key})", what, commit)


def brief(error: Exception) -> str:
    """Return the first line of an error's message, at most 160 characters."""
    return first_line(error)[:160]
