"""What most tests need: small runs of real checkpoints, and a cache that is thrown away."""

import os

# Small matrices gain nothing from a second thread, and lose much where cores are busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

MakeRun = Callable[..., Path]


@pytest.fixture(autouse=True, scope="session")
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Digests are remembered for this session only, not among the user's own."""
    before = os.environ.get("ONTOGENY_CACHE")
    os.environ["ONTOGENY_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("ONTOGENY_CACHE")
    if before is not None:
        os.environ["ONTOGENY_CACHE"] = before


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """`make_run(steps=(0, 1, 2), name="run", **config)`: a folder of small random organisms."""

    def make(steps: Sequence[int] = (0, 1, 2, 4), name: str = "run", **config: object) -> Path:
        from pipeline.models.organism import OrganismConfig, OrganismForCausalLM

        shape = {"vocab_size": 40, "hidden_size": 16, "num_attention_heads": 2} | config
        for step in steps:
            torch.manual_seed(step)
            model = OrganismForCausalLM(OrganismConfig(**shape))  # type: ignore[arg-type]
            model.save_pretrained(tmp_path / name / f"step-{step}")
        return tmp_path / name

    return make
