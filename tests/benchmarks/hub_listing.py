"""Count the requests and seconds of listing runs on a server that imitates the Hub.

    python -m tests.benchmarks.hub_listing [--latency SECONDS]

Prints, for 154 branches, 154 folders of one branch, and 5,000 commits: the requests and seconds of
the first listing, and of the next one, for which what is known of each commit is kept.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.pipeline.checkpoints.servers import Hub, Repository

BRANCHES, COMMITS = 154, 5000
_HEAD = (
    "| run | requests | seconds | requests of the next listing | seconds |\n|---|---|---|---|---|"
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    given = parser.parse_args()
    print(_HEAD)
    with tempfile.TemporaryDirectory() as folder, Hub() as hub:
        os.environ |= {"HF_ENDPOINT": hub.url, "ONTOGENY_CACHE": f"{folder}/cache"}
        hub.faults.latency = given.latency
        for what, uri in runs(hub, Path(folder)):
            first, again = measured(hub, uri), measured(hub, uri)
            print(f"| {what} | {first} | {again} |", flush=True)


def runs(hub: Hub, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the description and address of each run, whose files are written to a folder."""
    config = folder / "config.json"
    config.write_text('{"model_type": "gpt_neox"}')
    files = {"config.json": config, "model.safetensors": folder / "model.safetensors"}
    files["model.safetensors"].write_bytes(bytes(2**17))
    made = {name: hub.repositories.setdefault(f"owner/{name}", Repository()) for name in "abc"}
    for step in range(BRANCHES):
        made["a"].commit_files(files, f"step{step}")
    made["a"].commit_files({}, "main")
    yield f"{BRANCHES} branches", "hf://owner/a"
    inside = {
        f"checkpoint-{step}/{name}": file
        for step in range(BRANCHES)
        for name, file in files.items()
    }
    made["b"].commit_files(inside, "main")
    yield f"{BRANCHES} folders of one branch", "hf://owner/b"
    for step in range(COMMITS):
        made["c"].commit_files(files, "main", title=f"Training in progress, step {step}")
    yield f"{COMMITS:,} commits of one branch", "hf://owner/c@main:commits"


def measured(hub: Hub, uri: str) -> str:
    """Return the requests and seconds of one listing, as two cells of a table."""
    from pipeline.checkpoints import list_checkpoints

    hub.forget()
    began = time.perf_counter()
    list_checkpoints(uri)
    # Without those of huggingface_hub for itself, once a day.
    return f"{len(hub.paths(containing='/owner/')):,} | {time.perf_counter() - began:.1f}"


if __name__ == "__main__":
    main()
