"""Cost of the store: opening it, the ten questions of docs/queries.md, and requests to S3.

    python tests/benchmarks/store.py [--json]         a store of 600 checkpoints on disk
    python tests/benchmarks/store.py --s3 [--json]    200 checkpoints on S3 (Ceph, infra/s3/ceph.py)

Disk: 24 layers x 16 heads and losses of 256 sequences x 512 positions, with trajectories of the
losses. Seconds are of processor time, of opening the store and of each one-line answer in Python
(its numbers in memory), in one process of its own whose largest size is peak_mb; imports are not
counted. Files and bytes are per checkpoint, of rows and with trajectories; milliseconds of waiting
for the disk, too. S3: requests are counted from the server's own log; the crowd is of 8 processes
that write 200 checkpoints each, rows_lost what they reported and the store does not have.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # this repository's tests are not installed

import fsspec
import numpy as np

from infra.s3.ceph import Ceph, running
from pipeline.query import open_run, to_frame
from pipeline.store import Store
from pipeline.store.packs import LARGE
from pipeline.store.reclaim import seal
from pipeline.store.trajectories import publish
from pipeline.store.writer import Writer
from tests.pipeline.query import questions
from tests.pipeline.store import killed, synthetic

SHAPE = {"layers": 24, "heads": 16, "sequences": 256, "positions": 512}


def on_disk(folder: str, steps: int) -> dict[str, Any]:
    made = questions.templates(**SHAPE)
    cost: dict[str, Any] = {}
    for name, count in (("other", steps // 10), ("run", steps)):
        uri, places = f"{folder}/{name}.zarr", range(0, 1000 * count, 1000)
        filling = elapsed(lambda: questions.fill(uri, made, places))  # noqa: B023
        rows = _files(uri)
        publishing = elapsed(lambda: _publish(uri))  # noqa: B023
        cost = {
            "row_files_per_checkpoint": round(rows / count, 2),
            "files_per_checkpoint": round(_files(uri) / count, 2),
            "mb_per_checkpoint": round(_bytes(uri) / count / 1e6, 3),
            "ms_to_write_checkpoint": round(1000 * filling / count, 1),
            "ms_to_publish_checkpoint": round(1000 * publishing / count, 1),
        }
    answered = subprocess.run(
        [sys.executable, __file__, "--answer"], cwd=folder, stdout=subprocess.PIPE, check=True
    )
    return {**json.loads(answered.stdout), **cost}


def _publish(uri: str) -> None:
    seal(Store(uri))
    publish(Store(uri))


def _files(uri: str) -> int:
    return sum(path.is_file() for path in Path(uri).rglob("*"))


def _bytes(uri: str) -> int:
    """Return what the files take on the disk, which gives each whole blocks."""
    return sum(512 * path.stat().st_blocks for path in Path(uri).rglob("*") if path.is_file())


def elapsed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def answer() -> dict[str, Any]:
    """Open the stores of this folder and answer the ten questions."""
    opening = seconds(lambda: open_run("run.zarr"))
    taken = {q.title: seconds(lambda q=q: answered(q.python)) for q in questions.questions()}
    return {
        "open_seconds": opening,
        "slowest_question_seconds": max(taken.values()),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "seconds_by_question": taken,
    }


def answered(expression: str) -> np.ndarray:
    """Open a store and return the numbers of an answer."""
    return np.asarray(eval(expression, questions.preamble()).values)


def seconds(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return round(time.process_time() - began, 3)


def on_s3(server: Ceph, steps: int) -> dict[str, Any]:
    fsspec.filesystem("s3").mkdir("measured")
    made = questions.templates(**SHAPE)
    store = questions.fill("s3://measured/run.zarr", made, range(steps))

    def requests(work: Callable[[], Any]) -> int:
        before = len(server.requests())
        work()
        return len(server.requests()) - before

    written = _requests_to_write(store, made, requests)
    seal(store)
    publish(store)
    opened: dict[str, Any] = {}
    opening = requests(lambda: opened.update(run=open_run(store)))
    heads, losses = opened["run"]["head_scores"], opened["run"]["token_loss"]
    one_head = heads.induction.sel(layer=1, head=3)
    one_token = losses.loss.sel(sequence=3, position=100)
    return {
        "requests_open": opening,
        "requests_head_trajectory": requests(lambda: to_frame(one_head)),
        "requests_token_over_training": requests(lambda: to_frame(one_token)),
        "requests_one_checkpoint": requests(lambda: losses.loss.sel(step=8).values),
        "requests_write_checkpoint_over_rows": written,
        **crowd(processes=8, steps=steps),
    }


def _requests_to_write(store: Store, made: list[Any], requests: Callable[..., int]) -> int:
    """Requests for a further checkpoint, beyond one for each row and each large variable."""
    writer = Writer(store, store.version().number, made)
    dice = np.random.default_rng(0)

    def rows(step: int) -> list[Any]:
        return [(t.group, questions.row(t, step), questions.values(t, dice)) for t in made]

    writer.write(rows(10**6))  # a worker asks once what the newest version is
    further = rows(2 * 10**6)
    large = sum(value.nbytes > LARGE for _, _, values in further for value in values.values())
    return requests(lambda: writer.write(further)) - len(further) - large


def crowd(processes: int, steps: int) -> dict[str, int]:
    """Write into one store from several processes at once, so many checkpoints each."""
    store = synthetic.run("s3://measured/crowd.zarr", [synthetic.scores()], [])
    number, rows = store.version().number, list(range(processes * steps))
    shares = [(store.uri, rows[i::processes], number) for i in range(processes)]
    killed.side_by_side(killed.write_rows, shares)
    shown = open_run(store)
    wrong = synthetic.wrong_rows(shown, [synthetic.scores()])
    lost = set(rows) - set(shown["scores"]["step"].values.tolist())
    return {"rows_written": len(rows), "rows_lost": len(lost), "rows_wrong": len(wrong)}


def main() -> None:
    parser = argparse.ArgumentParser(description="What the store costs, on disk or on S3.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--s3", action="store_true")
    parser.add_argument("--steps", type=int, help="checkpoints: 600 on disk, 200 on S3")
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.answer:
        measured = answer()
    elif given.s3:
        with running() as server:
            measured = on_s3(server, given.steps or 200)
    else:
        with tempfile.TemporaryDirectory() as folder:
            measured = on_disk(folder, given.steps or 600)
    if given.json or given.answer:
        print(json.dumps(measured))
        return
    for key, value in measured.items():
        print(f"{key}: {value}")


if __name__ == "__main__":
    main()
