"""Share of a worker's time spent waiting for weights from S3, with and without prefetching.

    python tests/benchmarks/loading.py [--checkpoints 100] [--rounds 2] [--json]

Checkpoints of a small model at an S3 server on this machine (Ceph where installed, else moto), at
most two of them on the worker's disk. Each round analyses them twice: as `analyze` does, which
fetches and reads the next while one is computed, and one after another. The idle share is the part
of the time between its first and its last checkpoint in which the worker computed nothing; the peak
is the most that the copies took of the disk at any moment, in sizes of a checkpoint.
"""

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch
from s3fs import S3FileSystem

from infra.s3.ceph import PROGRAMS, Ceph, free_port
from pipeline import Analysis, Summary, analyze
from pipeline.analysis.plan import plan
from pipeline.analysis.preflight import prepare
from pipeline.analysis.survey import survey
from pipeline.analysis.worker import Worker
from pipeline.checkpoints.cache import cache_folder
from pipeline.models.organism import OrganismForCausalLM
from pipeline.models.organism_config import OrganismConfig
from tests.pipeline.checkpoints.conftest import imitated_s3
from tests.pipeline.checkpoints.test_anywhere import watched

SHAPE = OrganismConfig(
    vocab_size=512, hidden_size=96, num_hidden_layers=2, num_attention_heads=4,
    intermediate_size=384, max_position_embeddings=128,
)  # fmt: skip


def one_after_another(analysis: Analysis) -> Summary:
    """Load and compute each checkpoint in turn, without prefetching."""
    surveyed = survey(analysis)
    prepared = prepare(analysis, surveyed)
    planned, worker = plan(prepared, {}), Worker(prepared.job)
    summary = Summary(analysis.store)
    for cell in planned.cells:
        summary.settle(cell.checkpoint.step, worker.compute(cell, planned))
    return summary


def measured(run: Callable[[Analysis], Summary], folder: Path, size: int) -> dict[str, float]:
    """Time an analysis of all checkpoints into a new store, with an empty cache."""
    shutil.rmtree(folder, ignore_errors=True)
    os.environ["ONTOGENY_CACHE"] = str(folder / "cache")
    analysis = Analysis.model_validate(
        {
            "checkpoints": "s3://runs/a",
            "store": str(folder / "a.zarr"),
            "inputs": {"repeated": {"kind": "repeated", "block_length": 60, "sequences": 32}},
            "measures": ["head_scores", "weight_norm"],
            "cache": {"checkpoints": 2},
        }
    )
    with watched(cache_folder() / "copies") as peak:
        summary = run(analysis)
    assert not summary.failed
    return {
        "seconds": summary.idle + summary.computing,
        "idle_share": summary.idle_share,
        "peak_checkpoints": peak[0] / size,
    }


def upload(folder: Path, count: int) -> int:
    """Write a run and upload it; return the size of one checkpoint's weights."""
    for step in range(count):
        torch.manual_seed(step)
        OrganismForCausalLM(SHAPE).save_pretrained(folder / f"step-{step}")
    filesystem = S3FileSystem(use_listings_cache=False)
    filesystem.mkdir("runs")
    filesystem.put(str(folder), "runs/a", recursive=True)
    return (folder / "step-0/model.safetensors").stat().st_size


def main() -> None:
    """Print the results, one round per line, or all together with --json."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--checkpoints", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if all(shutil.which(program) for program in PROGRAMS):
            server = Ceph(folder / "ceph", free_port())
            os.environ.update(server.start())
            stack.callback(server.stop)
        else:
            os.environ.update(stack.enter_context(imitated_s3()))
        size = upload(folder / "run", asked.checkpoints)
        found = []
        for _ in range(asked.rounds):
            ahead = measured(analyze, folder / "ahead", size)
            after = measured(one_after_another, folder / "after", size)
            found.append({"ahead": ahead, "one_after_another": after})
            if not asked.json:
                ratio = ahead["seconds"] / after["seconds"]
                print(
                    f"idle {ahead['idle_share']:.0%} reading ahead, {after['idle_share']:.0%} one "
                    f"after another; the worker's time {ratio:.2f} of the latter; peak "
                    f"{ahead['peak_checkpoints']:.2f} checkpoints' size on disk"
                )
    if asked.json:
        print(json.dumps({"checkpoints": asked.checkpoints, "bytes": size, "rounds": found}))


if __name__ == "__main__":
    main()
