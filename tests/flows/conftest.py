"""Fixtures of the flows: one run of checkpoints and one Prefect server for all tests."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.benchmarks.servers import free_port, start_server

# Prefect reads these when a test imports it: a temporary home, and the address of the server.
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
    """Start a persistent Prefect server; yield the URL of its API."""
    import flows  # noqa: F401  (its settings make a server record every task run)

    process = start_server({}, _PORT)
    yield os.environ["PREFECT_API_URL"]
    process.terminate()
    process.wait(timeout=300)


@pytest.fixture(scope="session")
def organisms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write random organisms, one per step of `STEPS`, and token ids; return their folder."""
    import torch

    from pipeline.models.organism import OrganismForCausalLM
    from pipeline.models.organism_config import OrganismConfig

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
    """Return `make_analysis(**changes)`: all kinds of measures on `organisms`, into a new store."""
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
    """Return the content of a store that the serial loop has written."""
    from pipeline import Analysis, analyze, open_run

    store = organisms / "undisturbed.zarr"
    summary = analyze(Analysis.model_validate(analysis_of(organisms, store)))
    assert summary.computed == list(STEPS)
    return without_uri(open_run(str(store)))


def without_uri(tree: Any) -> Any:
    """Load a run into memory, without the addresses of its checkpoints, for comparison."""
    return tree.map_over_datasets(lambda dataset: dataset.drop_vars("uri", errors="ignore")).load()


@pytest.fixture(scope="session")
def comparable() -> Callable[[str], Any]:
    """Return the function that loads a store for comparison by `identical`."""
    from pipeline import open_run

    return lambda store: without_uri(open_run(store))
