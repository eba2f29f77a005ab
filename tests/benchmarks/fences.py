"""Stop an analysis at every change it makes, let another one run to its end, and wake up the first.

    python tests/benchmarks/fences.py [--json] [--on disk|s3|both] [--every 1] [--ahead SECONDS ...]

The first analysis makes or opens a store, plans, writes rows, masks a step, seals, publishes, and
reclaims without any age. It is stopped (SIGSTOP) before one of these changes, longer than its lease
lasts. The second, of other weights and more steps, takes the store over, does the same and ends.
Then the first goes on: it may end, or stop with one sentence. With `--ahead` the clock of the first
is so many seconds ahead of the second's (behind, if negative).

stops: at how many changes. damaged: rows or trajectories that are wrong, faults that `verify`
found, and errors that are no sentence. lost: rows that either reported as stored, and that no later
row of the same step replaced, but that the store does not show. Exit code 1 unless both are 0.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # this repository's tests are not installed

import fsspec
import xarray as xr

from infra.s3.ceph import running
from pipeline.errors import InputError
from pipeline.query import open_run
from pipeline.store import Store
from pipeline.store.lease import owned
from pipeline.store.reclaim import reclaim, seal
from pipeline.store.trajectories import publish
from pipeline.store.verify import verify
from tests.pipeline.store import killed, synthetic
from tests.pipeline.store.synthetic import IDENTITY, losses, scores

TEMPLATES = [scores(), losses()]
LEASE = 0.4  # seconds
YEAR = 365 * 86400
AHEAD = (0, 600, -600, 3 * YEAR, -3 * YEAR)
FIRST, SECOND = (range(4), 0), (range(1, 6), 1)  # steps and edition of the weights
killed.CONTEXT.set_forkserver_preload(["pipeline.store.verify", "s3fs"])


@dataclass
class Counts:
    """The number of stops, and of what they damaged and lost."""

    stops: int = 0
    damaged: int = 0
    lost: int = 0


# The analyses


def analysis(uri: str, steps: range, edition: int, reported: str) -> None:
    """Do all that changes a store, and report each row that is stored, a line each."""
    store = Store(uri)
    try:
        store.create_or_open(IDENTITY)
        with owned(store, LEASE):
            number = store.require_groups(TEMPLATES, plan=True).number
            for template in TEMPLATES:
                for step in steps:
                    synthetic.write(store, template, step, edition, number)
                    with Path(reported).open("a") as file:
                        file.write(f"{template.group} {step} {number} {edition}\n")
            store.set_verdict({"edition": edition}, {})
            store.require_groups(TEMPLATES)
            seal(store)
            variants = {template.group: template.variant for template in TEMPLATES}
            store.settle(number, {"edition": edition}, {}, variants, dict.fromkeys(variants, steps))
            publish(store)
        reclaim(store, older_than=-YEAR * 10)
    except InputError as error:
        assert "\n" not in str(error)


def stopped(uri: str, steps: range, edition: int, reported: str, at: int, ahead: float) -> None:
    """Run an analysis that stops itself before its change number `at`."""
    real, left = time.time, [at]
    time.time = lambda: real() + ahead

    def changed() -> None:
        left[0] -= 1
        if left[0] == -1:
            os.kill(os.getpid(), signal.SIGSTOP)

    watch(uri, changed)
    analysis(uri, steps, edition, reported)


def watch(uri: str, changed: Any) -> None:
    """Call `changed` before each change to the file system, or each request that changes S3."""
    if "://" not in uri:
        killed.watch(changed)
        return
    from aiobotocore.client import AioBaseClient

    real = AioBaseClient._make_api_call

    async def call(self: Any, name: str, given: Any) -> Any:
        if name.startswith(("Put", "Delete", "Copy")):
            changed()
        return await real(self, name, given)

    AioBaseClient._make_api_call = call


def count_changes(uri: str, reported: str, total: str) -> None:
    """Write into the file `total` how many changes an analysis makes."""
    changes: list[None] = []
    watch(uri, lambda: changes.append(None))
    analysis(uri, *FIRST, reported)
    Path(total).write_text(str(len(changes)))


# The stops


def run(place: str, every: int, aheads: tuple[float, ...]) -> Counts:
    """Stop at every so many changes, with each of the clocks, in stores below a place."""
    counts = Counts()
    with tempfile.TemporaryDirectory() as notes:
        total = Path(notes) / "total"
        _join(killed.process_of(count_changes, f"{place}/counted.zarr", f"{notes}/c", str(total)))
        changes = int(total.read_text())
        for ahead in aheads:
            for at in range(0, changes, every):
                reported = Path(notes) / f"{at}.{ahead}"
                _stop(f"{place}/{at}.{ahead:.0f}.zarr", at, ahead, reported, counts)
            said = f"{place}, {ahead:+.0f} s: {counts}"
            print(f"{time.strftime('%H:%M:%S')} {said}", file=sys.stderr)
    return counts


def _stop(uri: str, at: int, ahead: float, reported: Path, counts: Counts) -> None:
    reported.touch()
    first = killed.process_of(stopped, uri, *FIRST, str(reported), at, ahead)
    first.start()
    if not _is_stopped(first):
        first.join()
        return  # it made fewer changes than when they were counted
    counts.stops += 1
    second = killed.process_of(analysis, uri, *SECOND, str(reported))
    second.start()
    second.join()
    os.kill(first.pid, signal.SIGCONT)
    first.join()
    counts.damaged += (first.exitcode != 0) + (second.exitcode != 0)
    _look(Store(uri), list(_rows(reported)), counts)


def _is_stopped(process: Any) -> bool:
    """Wait until a process is stopped, or has ended."""
    while process.is_alive():
        try:
            state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            break
        if state == "T":
            return True
        time.sleep(0.005)
    return False


def _look(store: Store, rows: list[tuple[str, int, int, int]], counts: Counts) -> None:
    """Compare what the store shows with what was reported."""
    stand: dict[tuple[str, int], tuple[int, int]] = {}
    for group, step, number, edition in rows:
        stand[group, step] = max(stand.get((group, step), (0, 0)), (number, edition))
    try:
        counts.damaged += len(verify(store).faults)
        tree = open_run(store).load()
    except Exception as error:
        print(f"{store.uri}: {type(error).__name__}: {error}", file=sys.stderr)
        counts.damaged += 1
        return
    for template in TEMPLATES:
        shown = tree.children.get(template.group)
        steps = set() if shown is None else set(shown["step"].values.tolist())
        for (group, step), (_, edition) in stand.items():
            if group == template.group and step not in steps:
                print(f"{store.uri}: {group} at step {step} is lost", file=sys.stderr)
                counts.lost += 1
            elif group == template.group:
                row = xr.DataTree.from_dict({group: shown.to_dataset().sel(step=[step])})
                counts.damaged += len(synthetic.wrong_rows(row, [template], edition))


def _rows(reported: Path) -> Iterator[tuple[str, int, int, int]]:
    for line in reported.read_text().splitlines():
        group, step, number, edition = line.split()
        yield group, int(step), int(number), int(edition)


def _join(process: Any) -> None:
    process.start()
    process.join()
    assert process.exitcode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description="Stop analyses, and count what came to harm.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--on", choices=("disk", "s3", "both"), default="disk")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--ahead", type=float, nargs="*", default=AHEAD)
    given = parser.parse_args()
    found = []
    with ExitStack() as stack:
        if given.on != "s3":
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            found.append(run(folder, given.every, tuple(given.ahead)))
        if given.on != "disk":
            stack.enter_context(running())
            fsspec.filesystem("s3").mkdir("fences")
            found.append(run("s3://fences", given.every, tuple(given.ahead)))
    counts = Counts(*(sum(getattr(one, key) for one in found) for key in asdict(Counts())))
    if given.json:
        print(json.dumps(asdict(counts)))
    else:
        print(", ".join(f"{key} {value}" for key, value in asdict(counts).items()))
    sys.exit(0 if counts.damaged == counts.lost == 0 else 1)


if __name__ == "__main__":
    main()
