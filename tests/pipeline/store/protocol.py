"""A model of how processes share a store: every storage operation is a step that may come at any
time, however long a process was stopped before it, or never, where it was killed.

It is a second, small implementation of what `versions`, `writer`, `reclaim` and `trajectories` in
`pipeline.store` do, for one group of rows. Each process is a generator that yields before every
storage operation, so that a scheduler decides who goes on. `World` is the storage, and watches what
must hold after each change: what was reported as stored is visible until a row that was planned
later stands in its place; what a version names is there; no change of a version is lost.

`Rules` has one field for each rule of the protocol: a variant without it must fail.
"""

import itertools
import random
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")
Process = Generator[None, None, T]
Key = tuple[
    str, int, Any
]  # the kind of object, its generation (of a version: its number), its name

KEPT_VERSIONS = 2  # few, so that a sleeper finds the number that it wants to make deleted


@dataclass(frozen=True)
class Rules:
    """The rules of the protocol, numbered as in `pipeline.store.versions`.

    seals (1): what is kept is named in a version that seals a closed generation, before what is
    not named is deleted. closes_first (1): and the generation is closed before it is listed.
    looks_after_writing (2): a row counts only if its generation is open still. own_generation (3):
    a version refers to new trajectories only while their generation is open. looks_at_ancestry (4):
    a version that was created counts only if the newest one descends from it. lists_in_change (5):
    whether a group has a row is looked up anew for each attempt to change it. complete_first (6): a
    variant becomes current only in a version that names the rows of all its steps.
    """

    seals: bool = True
    closes_first: bool = True
    looks_after_writing: bool = True
    own_generation: bool = True
    looks_at_ancestry: bool = True
    lists_in_change: bool = True
    complete_first: bool = True


class Row(NamedTuple):
    """One row. number: of the version that planned it. edition: stands for the weights."""

    step: int
    number: int
    id: int
    variant: str
    edition: int
    generation: int


@dataclass(frozen=True)
class Published:
    """Trajectories, and the folder before theirs; a folder is its generation and an id."""

    folder: tuple[int, int]
    rows: frozenset[Row]
    previous: tuple[int, int] | None

    @property
    def folders(self) -> set[tuple[int, int]]:
        return {self.folder} | ({self.previous} if self.previous else set())


@dataclass(frozen=True)
class Version:
    number: int = 1
    id: int = 0
    ancestors: frozenset[int] = frozenset()
    open: int = 1
    closing: frozenset[int] = frozenset()
    current: str | None = None
    variants: frozenset[str] = frozenset()
    rows: frozenset[Row] = frozenset()
    dropped: frozenset[Row] = frozenset()
    published: Published | None = None

    @property
    def unsealed(self) -> frozenset[int]:
        return self.closing | {self.open}

    def descends_from(self, id: int) -> bool:
        return id == self.id or id in self.ancestors


class InvariantError(Exception):
    """Something that must never be."""


def latest(rows: Iterable[Row], variant: str | None) -> dict[int, Row]:
    """Return the row of each step that stands: the one that was planned last."""
    return {row.step: row for row in sorted(rows) if row.variant == variant}


def _cell(row: Row) -> tuple[str, int]:
    return row.variant, row.step


class World:
    """The storage, what processes were told, and what must hold.

    reported: rows that a writer was told are stored. made: ids of versions whose makers were told
    that they count. finished: variants of analyses that ended. hidden: reported rows of variants
    that were not current when they were to be sealed, so that they may be gone. dropped: reported
    rows that were found damaged, and those before them.
    """

    def __init__(self, rules: Rules, resends: bool = False) -> None:
        self.rules, self.resends = rules, resends
        self.objects: set[Key] = set()
        self.versions: dict[int, Version] = {}
        self.reported: list[Row] = []
        self.made: set[int] = set()
        self.finished: set[str] = set()
        self.hidden: set[Row] = set()
        self.dropped: set[Row] = set()
        self._ids = itertools.count(1)
        self.create(Version(id=self.fresh_id()))

    def fresh_id(self) -> int:
        return next(self._ids)

    def copy(self, resends: bool = False) -> "World":
        """Return a world that goes its own way from here."""
        other = World(self.rules, resends)
        other.objects, other.versions = set(self.objects), dict(self.versions)
        other.reported, other.made = list(self.reported), set(self.made)
        other.finished = set(self.finished)
        other.hidden, other.dropped = set(self.hidden), set(self.dropped)
        other._ids = itertools.count(self.fresh_id())
        return other

    # Operations on the storage

    def newest_number(self) -> int:
        return max(self.versions)

    def list(self, generation: int) -> list[Row]:
        return [name for kind, g, name in self.objects if kind == "packs" and g == generation]

    def put(self, key: Key) -> None:
        self.objects.add(key)

    def create(self, version: Version) -> bool:
        """Make a version; False where there is one of this number."""
        if version.number in self.versions:
            return False
        self.versions[version.number] = version
        if version.number == self.newest_number():
            self._note_what_goes(version)
        self.check()
        return True

    def delete(self, key: Key) -> None:
        self.objects.discard(key)
        if key[0] == "versions":
            self.versions.pop(key[1], None)
        self.check()

    # What must hold

    def report(self, row: Row) -> None:
        self.reported.append(row)
        self._note_what_goes(self.shown()[0])
        self.check()

    def finish(self, variant: str, steps: Iterable[int]) -> None:
        """An analysis ends: readers see what it was asked for, unless they see another variant."""
        self.finished.add(variant)
        version, shown = self.shown()
        dropped = {row.step for row in self.dropped if row.variant == variant}
        if version.current == variant and not shown.keys() | dropped >= set(steps):
            raise InvariantError("an analysis ended, and not all its steps are there")

    def shown(self) -> tuple[Version, dict[int, Row]]:
        """Return the newest version, and the rows that a reader sees who opens the store now."""
        version = self.versions[self.newest_number()]
        unsealed = [row for generation in version.unsealed for row in self.list(generation)]
        return version, latest({*version.rows, *unsealed} - version.dropped, version.current)

    def check(self) -> None:
        version, shown = self.shown()
        for row in {*version.rows, *shown.values()}:
            for kind in ("packs", "large"):
                if (kind, row.generation, row) not in self.objects:
                    raise InvariantError("a version names a row that was deleted")
        for folder in version.published.folders if version.published else ():
            if ("published", *folder) not in self.objects:
                raise InvariantError("a version refers to trajectories that were deleted")
        if not self.made <= version.ancestors | {version.id}:
            raise InvariantError("a change of a version was lost")
        for row in self.reported:
            if row.variant == version.current and not self.may_be_gone(row):
                stands = shown.get(row.step)
                if stands is None or stands.number < row.number:
                    raise InvariantError("a row that was reported as stored is not visible")

    def may_be_gone(self, row: Row) -> bool:
        return row in self.hidden or row in self.dropped

    def _note_what_goes(self, version: Version) -> None:
        for row in self.reported:
            if any(_cell(row) == _cell(bad) and row <= bad for bad in version.dropped):
                self.dropped.add(row)
            sealed = row.generation not in version.unsealed
            if row.variant != version.current and sealed and row not in version.rows:
                self.hidden.add(row)


# Versions


def newest(world: World) -> Process[Version]:
    while True:
        yield
        number = world.newest_number()
        yield
        version = world.versions.get(number)
        if version is not None:
            return version


def attempt(world: World, before: Version, after: Version) -> Process[Version | None]:
    """Make the version after another; None where somebody else was quicker."""
    if after == before:
        return before
    made = replace(
        after,
        number=before.number + 1,
        id=world.fresh_id(),
        ancestors=before.ancestors | {before.id},
    )
    yield
    created = world.create(made)
    if world.resends:
        yield
        created = world.create(made)
    if not created:
        yield
        there = world.versions.get(made.number)
        if there is None or there.id != made.id:
            return None
    if world.rules.looks_at_ancestry:
        now = yield from newest(world)
        if not now.descends_from(made.id):
            return None
    world.made.add(made.id)
    world.check()
    return made


def change(world: World, change: Callable[[Version], Version]) -> Process[Version]:
    while True:
        before = yield from newest(world)
        made = yield from attempt(world, before, change(before))
        if made is not None:
            return made


def listed(world: World, generations: Iterable[int]) -> Process[set[Row]]:
    found: set[Row] = set()
    for generation in sorted(generations):
        yield
        found |= set(world.list(generation))
    return found


def rows_of(world: World, version: Version) -> Process[set[Row]]:
    found = yield from listed(world, version.unsealed)
    return {*version.rows, *found} - version.dropped


# Rows


def write(
    world: World, version: Version, planned: Version, variant: str, edition: int, step: int
) -> Process[Version]:
    """Write one row until it counts as stored; return the version that says so."""
    while True:
        row = Row(step, planned.number, world.fresh_id(), variant, edition, version.open)
        yield
        world.put(("large", row.generation, row))
        yield
        world.put(("packs", row.generation, row))
        if world.rules.looks_after_writing:
            yield
            if world.newest_number() != version.number:
                version = yield from newest(world)
        if version.open == row.generation:
            world.report(row)
            return version


# Sealing and reclaiming

Keep = Callable[[Version, set[Row]], Version]


def all_rows(version: Version, rows: set[Row]) -> Version:
    return replace(version, rows=frozenset(rows))


def standing_rows(version: Version, rows: set[Row]) -> Version:
    kept = frozenset(latest(rows, version.current).values())
    used = {row.variant for row in kept} | ({version.current} if version.current else set())
    return replace(version, rows=kept, variants=version.variants & used)


def seal(world: World, keep: Keep) -> Process[Version]:
    """Close the open generation, list what is closed, and name the rows that are kept."""
    if not world.rules.seals:
        version = yield from newest(world)
        found = yield from listed(world, version.unsealed)
        return (yield from change(world, lambda now: _named(now, found, frozenset(), keep)))
    found = None
    if not world.rules.closes_first:
        version = yield from newest(world)
        found = yield from listed(world, version.unsealed)
    closed = yield from change(
        world, lambda now: replace(now, closing=now.unsealed, open=now.open + 1)
    )
    if found is None:
        found = yield from listed(world, closed.closing)
    named = yield from change(world, lambda now: _named(now, found, closed.closing, keep))
    if closed.closing & named.closing:  # others have sealed a part of them
        return (yield from seal(world, keep))
    return named


def _named(version: Version, found: set[Row], sealed: frozenset[int], keep: Keep) -> Version:
    if not sealed <= version.closing:
        return version  # somebody else has sealed them
    return replace(
        keep(version, {*version.rows, *found} - version.dropped),
        closing=version.closing - sealed,
        dropped=frozenset(row for row in version.dropped if row.generation not in sealed),
    )


def seal_new(world: World) -> Process[None]:
    """Seal, unless no row was written since the last time."""
    version = yield from newest(world)
    rows = yield from rows_of(world, version)
    if version.closing or rows != version.rows:
        yield from seal(world, all_rows)


def reclaim(world: World) -> Process[None]:
    yield
    keys = [*sorted(world.objects), *(("versions", number, None) for number in world.versions)]
    version = yield from seal(world, standing_rows)
    folders = version.published.folders if version.published else set()
    for key in keys:
        kind, generation, name = key
        if kind == "versions":
            goes = generation <= version.number - KEPT_VERSIONS
        elif world.rules.seals and generation in {*version.unsealed, *range(version.open, 99)}:
            goes = False
        else:
            goes = (
                (generation, name) not in folders
                if kind == "published"
                else (name not in version.rows)
            )
        if goes:
            yield
            world.delete(key)


# Trajectories


def publish(world: World) -> Process[None]:
    while True:
        seen = yield from newest(world)
        rows = yield from rows_of(world, seen)
        shown = frozenset(latest(rows, seen.current).values())
        made = old = seen.published
        if not shown:
            return
        if old is None or old.rows != shown:
            if not (yield from _can_be_read(world, shown, old)):
                continue
            folder = (seen.open, world.fresh_id())
            yield
            world.put(("published", *folder))
            made = Published(folder, shown, old.folder if old else None)
        refer = partial(_with, world, seen, made)
        version = yield from change(world, refer)
        if version.published == made:
            return


def _can_be_read(world: World, rows: frozenset[Row], old: Published | None) -> Process[bool]:
    if old is not None:
        yield
        if ("published", *old.folder) not in world.objects:
            return False
    yield
    held = old.rows if old is not None else frozenset()
    return all(("packs", row.generation, row) in world.objects for row in rows - held)


def _with(world: World, seen: Version, made: Published | None, now: Version) -> Version:
    closed = world.rules.own_generation and now.open != seen.open
    return now if closed or now.published != seen.published else replace(now, published=made)


# Processes


def analyze(world: World, variant: str, edition: int, steps: Iterable[int]) -> Process[None]:
    """Plan what is missing, write it, seal it, show it, and publish it."""
    steps, shown = list(steps), False
    while not shown:
        seen = yield from newest(world)
        rows = yield from rows_of(world, seen)
        done = latest(rows, variant)
        missing = [step for step in steps if step not in done or done[step].edition != edition]
        planned = yield from _plan(world, variant, rows, bool(missing))
        version = yield from newest(world)
        for step in missing:
            version = yield from write(world, version, planned, variant, edition, step)
        if world.rules.complete_first:
            stored = list(world.reported)
            yield from seal_new(world)
            now = yield from change(world, lambda now: _showing(now, variant, steps))
            shown = _names_all(now, variant, steps)
            left = {row for row in stored if row.generation in now.unsealed} - world.dropped
            if world.rules.seals and not shown and any(row.variant == variant for row in left):
                raise InvariantError("a row that was stored before sealing was not sealed")
        else:
            yield from change(world, lambda now: _showing(now, variant, ()))
            yield from seal_new(world)
            shown = True
    world.finish(variant, steps)
    yield from publish(world)


def _plan(world: World, variant: str, seen: set[Row], anew: bool) -> Process[Version]:
    """Add a variant; a group that has no row of its current one shows it from now on."""
    made = None
    while made is None:
        before = yield from newest(world)
        rows = (yield from rows_of(world, before)) if world.rules.lists_in_change else seen
        empty = all(row.variant != before.current for row in rows)
        after = replace(
            before,
            variants=before.variants | {variant},
            current=variant if empty else before.current,
            id=0 if anew else before.id,
        )
        ended = before.current in world.finished
        made = yield from attempt(world, before, after)
        if made is not None and ended and made.current != before.current:
            raise InvariantError("a plan has hidden the variant of an analysis that ended")
    return made


def _names_all(version: Version, variant: str, steps: Iterable[int]) -> bool:
    return latest(version.rows, variant).keys() >= set(steps)


def _showing(version: Version, variant: str, steps: Iterable[int]) -> Version:
    if not _names_all(version, variant, steps):
        return version
    return replace(version, current=variant, variants=version.variants | {variant})


def repair(world: World) -> Process[None]:
    """Find the row of the first step damaged: show it, and those before it, to nobody."""
    version = yield from newest(world)
    rows = yield from rows_of(world, version)
    bad = latest(rows, version.current).get(0)
    if bad is not None:
        cell = {row for row in rows if _cell(row) == _cell(bad) and row <= bad}
        yield from change(
            world, lambda now: replace(now, rows=now.rows - cell, dropped=now.dropped | cell)
        )


def read(world: World) -> Process[None]:
    """Open the store, and read later: what was stored before is there, or was superseded."""
    stored = list(world.reported)
    version = yield from newest(world)
    rows = yield from rows_of(world, version)
    shown = latest(rows, version.current)
    for row in stored:
        stands = shown.get(row.step)
        missed = stands is None or stands.number < row.number
        gone = world.may_be_gone(row) or ("packs", row.generation, row) not in world.objects
        if row.variant == version.current and missed and not gone:
            raise InvariantError("a reader did not see a row that was stored before")
    for row in shown.values():
        yield
        gone = ("packs", row.generation, row) not in world.objects
        if gone and world.shown()[0].id == version.id:
            raise InvariantError("a reader did not find a row of the newest version")


# Scheduling

Start = Callable[[World], Process[None]]
PROCESSES: dict[str, Start] = {
    "analysis": lambda world: analyze(world, "a", 0, range(3)),
    "of other weights": lambda world: analyze(world, "a", 1, range(2)),
    "of another variant": lambda world: analyze(world, "b", 0, range(2)),
    "reclaiming": reclaim,
    "publishing": publish,
    "repairing": repair,
    "reading": read,
}


def advance(process: Process[None], steps: int | None = None) -> bool:
    """Let a process take so many steps, or all; return whether it goes on after them."""
    try:
        for _ in itertools.repeat(None) if steps is None else range(steps):
            next(process)
    except StopIteration:
        return False
    return True


def filled(rules: Rules, runs: int = 1) -> World:
    """Return the storage after analyses of two checkpoints, each of other weights."""
    world = World(rules)
    for edition in range(runs):
        advance(analyze(world, "a", edition, range(2)))
    return world


@dataclass(frozen=True)
class Schedule:
    """The processes, and the steps that each takes in its turns (None: to its end).

    runs: how many analyses there were before. resends: whether each request to create a version is
    sent twice, as where the answer to the first was lost. Whoever has no turn any more was killed.
    """

    runs: int
    names: tuple[str, ...]
    turns: tuple[tuple[int, int | None], ...]
    resends: bool = False

    def carry_out(self, world: World) -> None:
        """Let the processes go on in turn. Raises InvariantError."""
        processes = [PROCESSES[name](world) for name in self.names]
        for index, steps in self.turns:
            advance(processes[index], steps)

    def __str__(self) -> str:
        turns = [
            f"{self.names[index]} ({index}) {steps or 'to its end'}" for index, steps in self.turns
        ]
        return f"after {self.runs} runs: {', '.join(turns)}"


@dataclass(frozen=True)
class Found:
    """The number of schedules that were tried, and of those that broke what must hold."""

    tried: int
    bad: Mapping[str, int]
    examples: dict[str, Schedule]

    def __str__(self) -> str:
        lines = [f"{sum(self.bad.values())} of {self.tried:,} schedules are bad"]
        lines += [f"  {n}: {what}, as {self.examples[what]}" for what, n in self.bad.items()]
        return "\n".join(lines)


def search(rules: Rules, schedules: Iterable[Schedule]) -> Found:
    """Carry schedules out, each in a world of its own."""
    worlds: dict[int, World] = {}
    bad: Counter[str] = Counter()
    examples: dict[str, Schedule] = {}
    tried = 0
    for schedule in schedules:
        tried += 1
        if schedule.runs not in worlds:
            worlds[schedule.runs] = filled(rules, schedule.runs)
        try:
            schedule.carry_out(worlds[schedule.runs].copy(schedule.resends))
        except InvariantError as error:
            bad[str(error)] += 1
            examples.setdefault(str(error), schedule)
    return Found(tried, bad, examples)


def one_stop(runs: int, stopped: Iterable[str] = tuple(PROCESSES)) -> Iterator[Schedule]:
    """Stop a process before each of its steps; one or two others run to their ends meanwhile."""
    others = [(name,) for name in PROCESSES] + [(name, "reclaiming") for name in PROCESSES]
    for name, meanwhile in itertools.product(stopped, others):
        whole = tuple((index, None) for index in range(1, len(meanwhile) + 1))
        for steps in range(_length(name, runs)):
            yield Schedule(runs, (name, *meanwhile), ((0, steps), *whole, (0, None)))


def two_stops(seed: int) -> Iterator[Schedule]:
    """Stop a process twice, or stop another while it is stopped; without end, at random."""
    chance = random.Random(seed)
    while True:
        runs, names = chance.randrange(3), tuple(chance.choices(list(PROCESSES), k=3))
        first, second = (chance.randrange(_length(name, runs) + 1) for name in names[:2])
        whole = ((0, None), (1, None), (2, None))
        turns = chance.choice(
            [
                ((0, first), (1, None), (0, second), (2, None), (0, None)),
                ((0, first), (1, second), (2, None), (0, None), (1, None)),
                ((0, first), (1, second), (2, None), (1, None), (0, None)),
                ((0, first), (1, second), *whole),
            ]
        )
        yield Schedule(runs, names, turns, resends=chance.random() < 0.2)


def at_random(seed: int) -> Iterator[Schedule]:
    """Let 3 to 7 processes go on for a while each, in any order, and kill some; without end."""
    chance = random.Random(seed)
    while True:
        names = tuple(chance.choices(list(PROCESSES), k=chance.randint(3, 7)))
        alive = list(range(len(names)))
        turns: list[tuple[int, int | None]] = []
        for _ in range(chance.randint(5, 40)):
            if len(alive) > 1 and chance.random() < 0.03:
                alive.remove(chance.choice(alive))
            turns.append((chance.choice(alive), chance.choice([1, 2, 3, 5, 10, 20])))
        chance.shuffle(alive)
        turns += [(index, None) for index in alive]
        yield Schedule(chance.randrange(3), names, tuple(turns), resends=chance.random() < 0.2)


@cache
def _length(name: str, runs: int) -> int:
    """Return how many steps a process takes that is alone."""
    process = PROCESSES[name](filled(Rules(), runs))
    return sum(1 for _ in process)
