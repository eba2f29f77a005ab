"""One run of checkpoints, one Prefect server and one Ray for all tests of the flows."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.benchmarks.servers import free_port, start_server

# Before Prefect is imported by any test: a home of our own, and where the server will be.
_HOME = tempfile.mkdtemp(prefix="ontogeny-prefect-")
_PORT = free_port()
os.environ["PREFECT_HOME"] = _HOME
os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{_PORT}/api"
os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"

STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)
P = 31

MakeAnalysis = Callable[..., Any]


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """A standing Prefect server; its API's URL."""
    import flows  # noqa: F401  (the settings under which a server records every task run)

    process = start_server({}, _PORT)
    yield os.environ["PREFECT_API_URL"]
    process.terminate()
    process.wait(timeout=30)


@pytest.fixture(scope="session")
def organisms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of random organisms, one per step of `STEPS`, and of token ids beside it."""
    import torch

    from pipeline.models.organism import OrganismConfig, OrganismForCausalLM

    folder = tmp_path_factory.mktemp("organisms")
    config = OrganismConfig(
        vocab_size=P + 1,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    for step in STEPS:
        torch.manual_seed(step)
        OrganismForCausalLM(config).save_pretrained(folder / "run" / f"step-{step}")
    np.save(folder / "ids.npy", np.random.default_rng(0).integers(0, P, (64, 32)))
    return folder


@pytest.fixture
def make_analysis(organisms: Path, tmp_path: Path) -> MakeAnalysis:
    """`make_analysis(**changes)`: every kind of measure on the organisms, into a fresh store."""
    from pipeline.config import Analysis

    def make(**changes: Any) -> Analysis:
        return Analysis.model_validate(analysis_of(organisms, tmp_path / "store.zarr") | changes)

    return make


def analysis_of(organisms: Path, store: Path) -> dict[str, Any]:
    return {
        "checkpoints": str(organisms / "run"),
        "store": str(store),
        "inputs": {
            "text": {"kind": "array", "path": str(organisms / "ids.npy"), "length": 32},
            "repeated": {"kind": "repeated", "block_length": 10, "sequences": 16},
            "table": {
                "kind": "table", "p": P, "operation": "add", "train_share": 0.4, "split_seed": 0,
            },
        },
        "measures": {
            "token_loss": {"early_token": 4, "late_token": 30},
            "head_scores": {},
            "weight_norm": {},
            "modular_addition": {},
        },
    }  # fmt: skip


@pytest.fixture(scope="session")
def undisturbed(organisms: Path) -> Any:
    """What a plain loop over the checkpoints stores."""
    from pipeline import Analysis, analyze, open_run

    store = organisms / "undisturbed.zarr"
    summary = analyze(Analysis.model_validate(analysis_of(organisms, store)))
    assert summary.computed == list(STEPS)
    return without_uri(open_run(str(store)))


def without_uri(tree: Any) -> Any:
    """A run as it is compared: in memory, without the places of its checkpoints."""
    return tree.map_over_datasets(lambda dataset: dataset.drop_vars("uri", errors="ignore")).load()


@pytest.fixture(scope="session")
def comparable() -> Callable[[str], Any]:
    """The tree of a store, to be compared by `identical`."""
    from pipeline import open_run

    return lambda store: without_uri(open_run(store))
