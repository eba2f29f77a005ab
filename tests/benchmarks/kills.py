"""Kill workers, coordinators and the S3 gateway at random moments; count the damage.

    python tests/benchmarks/kills.py [--json] [--kills 200] [--seed 0] [--on disk|s3|both]

Runs of two measures, first over 20 steps, then over 40 with other weights, are written by a
coordinator that owns the store and by three workers. Whoever dies is started again, until the run
is complete. On S3 (Ceph, started by infra/s3/ceph.py) the gateway is one of the victims.

rows_committed: rows that were ever seen. rows_lost: those of them that were gone later, and rows
missing from the final store. rows_wrong: rows shown, after any kill, with other numbers than those
of their step; and faults that `verify` found. Exit code 1 unless nothing was lost or wrong and each
final store is identical to one written without disturbance.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # this repository's tests are not installed

import fsspec

from infra.s3.ceph import Ceph, running
from pipeline.query import open_run
from pipeline.store import Commit, Store
from pipeline.store.commits import latest
from pipeline.store.fingerprint import fingerprint
from pipeline.store.lease import owned
from pipeline.store.reclaim import reclaim, seal
from pipeline.store.trajectories import publish
from pipeline.store.verify import verify
from tests.pipeline.store import killed, synthetic
from tests.pipeline.store.synthetic import IDENTITY, losses, scores, weights_of

TEMPLATES = [scores(), losses()]
# Their imports take a second.
killed.CONTEXT.set_forkserver_preload(["pipeline.store.verify", "s3fs"])
PHASES = ((range(20), 0), (range(40), 1))  # steps and edition of the weights
Phases = tuple[tuple[range, int], ...]
WORKERS = 3
LONGEST = 3.0  # seconds between two kills


@dataclass
class Counts:
    """Counts of kills and of their consequences."""

    kills: int = 0
    rows_committed: int = 0
    rows_wrong: int = 0
    rows_lost: int = 0

    @property
    def harmless(self) -> bool:
        return self.rows_wrong == self.rows_lost == 0


# The run that is disturbed


def coordinate(uri: str, steps: range, edition: int, notes: str) -> None:
    """Write all missing rows by workers, and publish them, as flows/analyze.py does."""
    with _noted(notes, "coordinator"):
        store = Store(uri)
        store.create_or_open(IDENTITY)
        with owned(store) as lease:
            number = store.require_groups(TEMPLATES).number
            while cells := _missing(store, steps, edition):
                number = store.require_groups(TEMPLATES, plan=True).number
                shares = [(uri, cells[i::WORKERS], number, edition, notes) for i in range(WORKERS)]
                workers = [killed.process_of(work, *share) for share in shares]
                for worker in workers:
                    worker.start()
                for worker in workers:
                    worker.join()
                lease.check()
            seal(store)
            variants = {template.group: template.variant for template in TEMPLATES}
            store.settle(number, None, {}, variants, dict.fromkeys(variants, steps))
            publish(store)


def work(uri: str, cells: list[tuple[int, int]], number: int, edition: int, notes: str) -> None:
    """Write the rows of one share: template and step of each."""
    with _noted(notes, "worker"):
        for template, step in cells:
            synthetic.write(Store(uri), TEMPLATES[template], step, edition, number)


def _missing(store: Store, steps: range, edition: int) -> list[tuple[int, int]]:
    cells = []
    for index, template in enumerate(TEMPLATES):
        done = latest(store.commits(template.group), template.variant)
        wanted = {s: fingerprint(template.variant, weights_of(s, edition)) for s in steps}
        cells += [(index, s) for s in steps if s not in done or done[s].fingerprint != wanted[s]]
    return cells


@contextmanager
def _noted(notes: str, role: str) -> Iterator[None]:
    """Register this process for the killer while it runs."""
    note = Path(notes) / f"{role}.{os.getpid()}"
    note.touch()
    yield
    note.unlink()


# The killer


@dataclass
class Killer:
    """A killer of random processes of the runs, with a budget of kills."""

    budget: int
    dice: random.Random
    counts: Counts
    notes: Path
    longest: float
    phases: Phases
    gateway: Ceph | None = None

    def disturb(self, uri: str) -> None:
        """Run once from an empty store to the end under kills, and check the result."""
        seen: set[Commit] = set()
        for steps, edition in self.phases:
            while not self._completed(uri, steps, edition, seen):
                pass
        store = Store(uri)
        self._look(store, seen)
        self.counts.rows_committed += len(seen)
        self.counts.rows_wrong += len(verify(store).faults)
        reclaim(store, older_than=0)
        steps, edition = self.phases[-1]
        shown = open_run(store)
        self.counts.rows_wrong += len(synthetic.wrong_rows(shown, TEMPLATES, edition))
        with tempfile.TemporaryDirectory() as folder:
            undisturbed = synthetic.run(f"{folder}/run.zarr", TEMPLATES, steps, edition)
            expected = open_run(undisturbed)
            for group, node in expected.children.items():
                found = shown[group]["step"].values if group in shown.children else []
                self.counts.rows_lost += len(set(node["step"].values) - set(found))
            if self.counts.harmless and not shown.identical(expected):
                self.counts.rows_wrong += 1

    def _completed(self, uri: str, steps: range, edition: int, seen: set[Commit]) -> bool:
        """Return whether a coordinator completed; kill meanwhile."""
        process = killed.process_of(coordinate, uri, steps, edition, str(self.notes))
        process.start()
        while self.counts.kills < self.budget:
            process.join(self.dice.uniform(0, self.longest))
            if not process.is_alive():
                break
            if self._kill_someone():
                self._look(Store(uri), seen)
        process.join()
        return process.exitcode == 0

    def _kill_someone(self) -> bool:
        """Kill a random process of the run, or the gateway; return whether there was any."""
        victims = [*sorted(self.notes.iterdir()), *([None] if self.gateway else [])]
        if not victims:
            return False
        victim = self.dice.choice(victims)
        if victim is None and self.gateway is not None:
            self.gateway.kill_gateway()
            self.gateway.start_gateway()
            self.counts.kills += 1
        elif victim is not None:
            with suppress(ProcessLookupError, FileNotFoundError):  # it has just ended
                os.kill(int(victim.suffix[1:]), signal.SIGKILL)
                victim.unlink()
                self.counts.kills += 1
        return True

    def _look(self, store: Store, seen: set[Commit]) -> None:
        """Count what a reader sees wrong at this moment, and what was there before and is gone."""
        if store.versions.newest_number() == 0:
            return
        there = set(store.commits())
        self.counts.rows_lost += len(seen - there)
        seen |= there
        shown = open_run(store)
        until = self.phases[-1][1]
        self.counts.rows_wrong += len(synthetic.wrong_rows(shown, TEMPLATES, 0, until))


def run(
    kills: int,
    seed: int,
    places: list[str],
    gateway: Ceph | None = None,
    longest: float = LONGEST,
    phases: Phases = PHASES,
) -> Counts:
    """Kill so many times, in runs below each of `places` (a folder, or s3://bucket) in turn."""
    counts, dice = Counts(), random.Random(seed)
    for number, place in enumerate(places):
        budget = kills * (number + 1) // len(places)
        runs = 0
        while counts.kills < budget:
            with tempfile.TemporaryDirectory() as notes:
                served = gateway if place.startswith("s3://") else None
                killer = Killer(budget, dice, counts, Path(notes), longest, phases, served)
                killer.disturb(f"{place}/{runs}.zarr")
            runs += 1
            print(f"{time.strftime('%H:%M:%S')} {place}: {counts}", file=sys.stderr)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill at random, and count what came to harm.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--on", choices=("disk", "s3", "both"), default="both")
    given = parser.parse_args()
    with ExitStack() as stack:
        places, gateway = [], None
        if given.on != "s3":
            places.append(stack.enter_context(tempfile.TemporaryDirectory()))
        if given.on != "disk":
            gateway = stack.enter_context(running())
            fsspec.filesystem("s3").mkdir("kills")
            places.append("s3://kills")
        counts = run(given.kills, given.seed, places, gateway)
    if given.json:
        print(json.dumps(asdict(counts)))
    else:
        print(", ".join(f"{key} {value}" for key, value in asdict(counts).items()))
    sys.exit(0 if counts.harmless else 1)


if __name__ == "__main__":
    main()
