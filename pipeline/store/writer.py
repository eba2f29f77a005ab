"""The writer, by which a worker commits rows."""

from collections.abc import Iterable, Sequence

from pipeline.schema import Values
from pipeline.store.commits import Commit, fresh_id
from pipeline.store.packs import Encoded, Row, encode
from pipeline.store.store import Store
from pipeline.store.templates import Template, fitted, rounding
from pipeline.store.versions import Version

NewRow = tuple[str, Row, Values]


class Writer:
    """Commits rows of one plan. Any number of processes may have one each, at the same time.

    number: of the version that planned the rows. templates: of the groups that they are of.
    """

    def __init__(self, store: Store, number: int, templates: Iterable[Template]) -> None:
        self._store, self._number = store, number
        self._templates = {(one.group, one.variant): one.as_json() for one in templates}
        self._version: Version | None = None

    def write(self, rows: Sequence[NewRow]) -> list[Commit]:
        """Commit rows, and return them once they are stored, in whole or not at all each.

        rows: (group, row, an array per variable, without "step"). Raises ValueError where values
        do not fit their group, InputError where the store is gone.
        """
        version = self._version or self._store.version()
        encoded = [self._encoded(*one) for one in rows]
        while True:
            commits = [
                Commit(group, row.step, self._number, fresh_id(), row.fingerprint, version.open)
                for group, row, _ in rows
            ]
            written = self._put(commits, encoded)
            if (newest := self._store.versions.newest_number()) == 0:
                self._store.objects.delete_all(written)  # all that is left of the store
            generation = version.open
            version = version if newest == version.number else self._store.version()
            if version.open == generation:
                self._version = version
                return commits
            # Closed meanwhile: who closed it may have listed its rows before these were there.

    def _encoded(self, group: str, row: Row, values: Values) -> Encoded:
        template = self._templates[group, row.variant]
        stored = fitted(f"group {group!r}, step {row.step}", template, values)
        return encode(row, stored, rounding(stored, values))

    def _put(self, commits: Sequence[Commit], encoded: Sequence[Encoded]) -> list[str]:
        """Write the large variables first: a row that is there is complete. Return all keys."""
        objects = self._store.objects
        large = {
            commit.large_key(name): content
            for commit, made in zip(commits, encoded, strict=True)
            for name, content in made.large.items()
        }
        if large:
            objects.put(large)
        packs = {c.key: made.pack for c, made in zip(commits, encoded, strict=True)}
        objects.put(packs)
        return [*large, *packs]
