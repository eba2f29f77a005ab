"""Bytes that measures of weights alone fetch or read, over those of the tensors that they use.

    python -m tests.benchmarks.bytes_read [--hidden 512] [--layers 4] [--shard 20MB] [--json]

A sharded model with random weights on this machine's disk, at an S3 server (moto) and at a server
that imitates the Hub, both on this machine. Counted is what a worker reads of the weights of one
checkpoint, headers included, and not what the listing, the audit and the config take. The tensors
used are those that the measure declares; a test proves that each of them is used and no other.

Of each file up to 64 KiB are read for its header. Beside tensors of megabytes, as here, they do not
matter; with --hidden 64 the ratios are large.
"""

import argparse
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from s3fs import S3FileSystem
from safetensors import safe_open
from transformers import AutoModelForCausalLM, LlamaConfig

from pipeline import Analysis
from pipeline.analysis.plan import plan
from pipeline.analysis.preflight import prepare
from pipeline.analysis.survey import survey
from pipeline.analysis.worker import Worker
from tests.pipeline.checkpoints.conftest import imitated_s3
from tests.pipeline.checkpoints.servers import Hub, Proxy

ATTENTION = {"weight_norm": {"of": "attention"}}
MEASURES: dict[str, dict[str, dict[str, Any]]] = {
    "`copying`": {"copying": {}},
    "`composition`": {"composition": {}},
    "`weight_norm` with `of: attention`": ATTENTION,
    "all three": {"copying": {}, "composition": {}, **ATTENTION},
}


class Place(NamedTuple):
    """A run's address, and a function that returns the bytes of it that were read so far."""

    uri: str
    read: Callable[[], int]


def write_run(folder: Path, hidden: int, layers: int, shard: str) -> None:
    """Write two checkpoints: the first one is read before anything is counted."""
    config = LlamaConfig(
        vocab_size=8 * hidden, hidden_size=hidden, intermediate_size=4 * hidden,
        num_hidden_layers=layers, num_attention_heads=8, max_position_embeddings=64,
    )  # fmt: skip
    for step in range(2):
        torch.manual_seed(step)
        made = AutoModelForCausalLM.from_config(config)
        made.save_pretrained(folder / f"step-{step}", max_shard_size=shard)


def places(run: Path, stack: ExitStack) -> Iterator[tuple[str, Place]]:
    """Yield the run's places by name, the servers started."""
    yield "disk", Place(str(run), characters_read)
    environment = stack.enter_context(imitated_s3())
    target = environment["AWS_ENDPOINT_URL"].removeprefix("http://")
    proxy = stack.enter_context(Proxy(target))
    os.environ |= environment | {"AWS_ENDPOINT_URL": proxy.url}
    filesystem = S3FileSystem(use_listings_cache=False)
    filesystem.mkdir("runs")
    filesystem.put(str(run), "runs/a", recursive=True)
    yield "S3", Place("s3://runs/a", lambda: proxy.bytes_sent)
    hub = stack.enter_context(Hub())
    os.environ["HF_ENDPOINT"] = hub.url
    hub.add_run("some/model", run)
    yield "the Hub", Place("hf://some/model", lambda: hub.bytes_sent + hub.cdn.bytes_sent)


def characters_read() -> int:
    """Return the bytes that this process has read from files and sockets so far (Linux only)."""
    found = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(found["rchar"])


def sizes_of_tensors(checkpoint: Path) -> dict[str, int]:
    """Return the bytes of each tensor of a checkpoint."""
    found = {}
    for file in checkpoint.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            for name in list(opened.keys()):
                found[name] = opened.get_tensor(name).nbytes
    return found


def bytes_read(place: Place, measures: dict[str, Any], store: Path) -> tuple[int, set[str]]:
    """Return what is read of the last checkpoint, and the names of the tensors that are used."""
    analysis = Analysis.model_validate(
        {"checkpoints": place.uri, "store": str(store), "measures": measures}
    )
    prepared = prepare(analysis, survey(analysis))
    worker, planned = Worker(prepared.job), plan(prepared, {})
    first, last = planned.cells
    worker.compute(first, planned)
    before = place.read()
    assert set(worker.compute(last, planned).computed) == set(measures)
    found = place.read() - before
    return found, {name for names in prepared.weights_read.values() for name in names or ()}


def measured(run: Path, folder: Path) -> dict[str, dict[str, float]]:
    """Return by measure the bytes used, in all, and read from each place."""
    sizes = sizes_of_tensors(run / "step-1")
    rows: dict[str, dict[str, float]] = {name: {} for name in MEASURES}
    with ExitStack() as stack:
        for where, place in places(run, stack):
            for number, (name, measures) in enumerate(MEASURES.items()):
                store = folder / f"{where}-{number}.zarr"
                rows[name][where], used = bytes_read(place, measures, store)
                rows[name]["used"] = sum(sizes[one] for one in used)
                rows[name]["all"] = sum(sizes.values())
    return rows


def main() -> None:
    """Print a table of ratios, or the bytes with --json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--shard", default="20MB")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # moto's lines, one a request
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        os.environ["ONTOGENY_CACHE"] = str(folder / "cache")
        write_run(folder / "run", asked.hidden, asked.layers, asked.shard)
        rows = measured(folder / "run", folder)
    if asked.json:
        print(json.dumps(rows, indent=1))
        return
    print("| measure | of all weights | disk | S3 | the Hub |\n|---|---|---|---|---|")
    for name, row in rows.items():
        ratios = " | ".join(
            f"{row[where] / row['used']:.3f}" for where in ("disk", "S3", "the Hub")
        )
        print(f"| {name} | {row['used'] / row['all']:.0%} | {ratios} |")


if __name__ == "__main__":
    main()
