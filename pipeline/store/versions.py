"""Versions: all that readers need to know of a store beside the rows, in one numbered object.

    versions/v<reversed number>        JSON with its checksum, never overwritten

The numbers are reversed and padded with zeros, so that the newest version is the first name of
one listing. A change is the creation, only if absent, of the version after the newest one: of two
coordinators that make it at once, one succeeds and the other reads what is there and goes on from
that. So no change is lost, and no reader ever sees half of one.

Rows are written without any coordination, each under a fresh name that contains the generation
which its writer found open. A version names the rows of the generations that were sealed; those of
the others are listed. The rules (without each of 1 to 6 a model of the protocol fails,
tests/pipeline/store/protocol.py):

1. Whoever reclaims first closes the open generation, then lists the closed ones, then seals them:
   names all rows that are kept. Only then does it delete what is not named. Nothing can refer to
   that later, so a sleeper that wakes up and deletes once more does no harm.
2. A row counts as stored only if the newest version, read after it was written, has its generation
   open still (`Writer.write`). Else its writer writes it again.
3. A version refers to trajectories of its own open generation, or to those that the version before
   it referred to.
4. Who has created a version looks whether its id is among the ancestors of the newest one. A
   sleeper may have made a number again that was deleted: then it has changed nothing, and tries
   again.
5. What a change depends on beside the version before it, such as whether a group has any row, is
   looked up anew for each attempt to make it.
6. A variant becomes current only in a version that names its rows: those of a variant that is not
   current may be reclaimed at any time.
7. An analysis that was planned before the one that ended last no longer says what is current,
   masked, or the verdict (`Store.settle`).
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pipeline.errors import InputError
from pipeline.store.commits import Commit, fresh_id
from pipeline.store.objects import Objects
from pipeline.store.sealed import DamagedError, seal, unseal

LAYOUT = 2
FOLDER = "versions"
_LARGEST = 10**10 - 1
NO_OBJECT = "is no file that can be read"  # but a folder, or a link to nothing
_ANCESTORS = 1000  # ids that are remembered; a sleeper that missed more makes its change again


@dataclass(frozen=True)
class Published:
    """The trajectories of one group: where they are, and of which rows.

    folder: under `published/`, with its generation first. rows: digest of the rows' keys. arrays:
    the Zarr metadata of each, so that a reader need not ask for it. previous: the folder before
    this one, kept for readers that have it open.
    """

    folder: str
    variant: str
    rows: str
    arrays: Mapping[str, Any]
    previous: str | None = None


@dataclass(frozen=True)
class Version:
    """One state of a store.

    identity: JSON that all analyses of the store share. address: where the run was when it was
    analysed last. groups: by name, {"current": the variant that readers see or None, "variants":
    {variant: template}}. rows: the sealed ones. dropped: keys of rows that are shown to nobody.
    verdict: what the audit found. masked: the steps whose rows no reader is shown, each with the
    reason. not_finite: the steps with numbers that are not finite because the model's are.
    settled: number of the plan whose analysis said last what is current, masked and the verdict.
    open, closing: the generation that rows are written in, and those that are not sealed yet.
    """

    identity: Mapping[str, Any]
    number: int = 1
    id: str = ""
    ancestors: tuple[str, ...] = ()
    address: str = ""
    settled: int = 0
    open: int = 1
    closing: tuple[int, ...] = ()
    groups: Mapping[str, Any] = field(default_factory=dict)
    rows: tuple[Commit, ...] = ()
    dropped: frozenset[str] = frozenset()
    verdict: Mapping[str, Any] | None = None
    masked: Mapping[int, str] = field(default_factory=dict)
    not_finite: Mapping[int, str] = field(default_factory=dict)
    published: Mapping[str, Published] = field(default_factory=dict)

    @property
    def unsealed(self) -> tuple[int, ...]:
        """The generations whose rows must be listed."""
        return (*self.closing, self.open)

    def current(self, group: str) -> str | None:
        """Return the variant of a group that readers see; None where it has none yet."""
        return self.groups[group]["current"] if group in self.groups else None

    def template(self, group: str, variant: str) -> Mapping[str, Any]:
        """Return the stored template of a variant. Raises KeyError."""
        return self.groups[group]["variants"][variant]


class Versions:
    """The versions of one store."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def newest_number(self) -> int:
        """Return the number of the newest version, 0 where there is none: one request."""
        first = self._objects.first(f"{FOLDER}/v")
        if first is not None and _number(first) is None:  # something foreign came first
            numbers = [_number(key) or 0 for key in self._objects.list(FOLDER)]
            return max(numbers, default=0)
        return 0 if first is None else _number(first) or 0

    def newest(self) -> Version | None:
        """Return the newest version, None where there is none. Raises InputError."""
        gone = 0
        while number := self.newest_number():
            if (found := self.get(number)) is not None:
                return found
            # Versions are removed only when there are newer ones.
            if number == gone:
                raise InputError(
                    f"{self._objects.uri}: {key_of(number)} {NO_OBJECT}: run `ontogeny store "
                    "verify --repair`, which removes it"
                )
            gone = number
        return None

    def get(self, number: int) -> Version | None:
        """Return a version, None where it is gone. Raises InputError where it is damaged."""
        content = self._objects.read(key_of(number))
        if content is None:
            return None
        where = f"{self._objects.uri}: {key_of(number)}"
        try:
            stored = unseal(content)
        except DamagedError as error:
            raise InputError(
                f"{where} {error}: run `ontogeny store verify --repair`, which goes back to the "
                "version before it"
            ) from error
        if stored.get("layout") != LAYOUT:
            raise InputError(
                f"{where} has layout {stored.get('layout')}, this version of ontogeny reads layout "
                f"{LAYOUT}: use the one that wrote it"
            )
        return _from_json(stored)

    def numbers(self) -> list[int]:
        """Return the numbers of all versions, in ascending order."""
        return sorted(n for key in self._objects.list(FOLDER) if (n := _number(key)) is not None)

    def create(self, first: Version) -> Version:
        """Make the first version of a store, or return the newest where there is one."""
        made = replace(first, number=1, id=fresh_id())
        with suppress(FileExistsError):
            self._objects.create(key_of(1), seal(_as_json(made)))
        newest = self.newest()
        return made if newest is None else newest

    def change(self, change: Callable[[Version], Version]) -> Version:
        """Make the version after the newest; return it, or the newest where nothing changes.

        change: gives for the newest version the next one. It is called again where another
        coordinator was quicker. Raises InputError where there is no store any more.
        """
        while True:
            before = self.newest()
            if before is None:
                raise InputError(
                    f"{self._objects.uri}: the store is gone: it was removed or renamed; put it "
                    "back, or run the analysis again"
                )
            after = change(before)
            if after == before:
                return before
            made = replace(
                after,
                number=before.number + 1,
                id=fresh_id(),
                ancestors=(*before.ancestors, before.id)[-_ANCESTORS:],
            )
            try:
                self._objects.create(key_of(made.number), seal(_as_json(made)))
            except FileExistsError:
                # A request that is sent again may meet the object that it made the first time.
                if not self._is_ours(made):
                    continue
            if self._counts(made):
                return made

    def restore(self, version: Version, after: int) -> Version:
        """Make an earlier version the newest: the one after a damaged one. FileExistsError."""
        ancestors = (*version.ancestors, version.id)[-_ANCESTORS:]
        made = replace(version, number=after + 1, id=fresh_id(), ancestors=ancestors)
        self._objects.create(key_of(made.number), seal(_as_json(made)))
        return made

    def _is_ours(self, made: Version) -> bool:
        there = self.get(made.number)
        return there is not None and there.id == made.id

    def _counts(self, made: Version) -> bool:
        """Tell whether a version that was created is the newest or one of its ancestors."""
        if self.newest_number() == made.number:
            return True
        newest = self.newest()
        return newest is not None and made.id in (newest.id, *newest.ancestors)


def key_of(number: int) -> str:
    """Return the key of a version: a larger number comes first in a listing."""
    return f"{FOLDER}/v{_LARGEST - number:010d}"


def _number(key: str) -> int | None:
    name = key.removeprefix(f"{FOLDER}/v")
    return _LARGEST - int(name) if len(name) == 10 and name.isdecimal() else None


def _as_json(version: Version) -> dict[str, Any]:
    """Return what is stored of a version. Weights are named once, and rows are short lists."""
    weights = sorted({commit.weights for commit in version.rows})
    place = {digest: index for index, digest in enumerate(weights)}
    rows: dict[str, dict[str, list[list[Any]]]] = {}
    for c in version.rows:
        entry = [c.generation, c.step, c.number, c.id, place[c.weights]]
        rows.setdefault(c.group, {}).setdefault(c.variant, []).append(entry)
    return {
        "layout": LAYOUT,
        "identity": version.identity,
        "number": version.number,
        "id": version.id,
        "ancestors": version.ancestors,
        "address": version.address,
        "settled": version.settled,
        "open": version.open,
        "closing": version.closing,
        "groups": version.groups,
        "weights": weights,
        "rows": rows,
        "dropped": sorted(version.dropped),
        "verdict": version.verdict,
        "masked": {str(step): why for step, why in version.masked.items()},
        "not_finite": {str(step): why for step, why in version.not_finite.items()},
        "published": {group: asdict(one) for group, one in version.published.items()},
    }


def _from_json(stored: Mapping[str, Any]) -> Version:
    return Version(
        identity=stored["identity"],
        number=stored["number"],
        id=stored["id"],
        ancestors=tuple(stored["ancestors"]),
        address=stored["address"],
        settled=stored["settled"],
        open=stored["open"],
        closing=tuple(stored["closing"]),
        groups=stored["groups"],
        rows=tuple(_rows(stored)),
        dropped=frozenset(stored["dropped"]),
        verdict=stored["verdict"],
        masked={int(step): why for step, why in stored["masked"].items()},
        not_finite={int(step): why for step, why in stored["not_finite"].items()},
        published={group: Published(**one) for group, one in stored["published"].items()},
    )


def _rows(stored: Mapping[str, Any]) -> Iterable[Commit]:
    weights = stored["weights"]
    for group, variants in stored["rows"].items():
        for variant, entries in variants.items():
            for generation, step, number, id, place in entries:
                fingerprint = f"{variant}-{weights[place]}"
                yield Commit(group, step, number, id, fingerprint, generation)
