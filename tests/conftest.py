"""Fixtures of most tests: small runs of real checkpoints, and a temporary cache."""

import logging
import os
import random

# Small matrices gain nothing from a second thread, and lose much when all cores are busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# Annotations of shapes and types in pipeline/ are checked at every call; an int is a float, as PEP
# 484 has it. Installed before anything of it is imported, because a module is changed on loading.
jaxtyping.install_import_hook(
    "pipeline", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)

# On a busy machine, making and trying an example may take any time.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

MakeRun = Callable[..., Path]

# Files and folders whose tests start Ray, Prefect, a cluster or many processes, or train models.
SLOW = (
    "flows/",
    "gpu/",
    "pipeline/query/test_sweeps.py",
    "pipeline/report/site/test_client.py",
    "pipeline/report/site/test_pages.py",
    "pipeline/store/test_ceph.py",
    "pipeline/store/test_kills.py",
    "pipeline/store/test_machine.py",
    "pipeline/test_induction_organism.py",
    "pipeline/training/",
)
QUICK = (  # in spite of their folder
    "flows/clusters/test_kuberay.py",
    "flows/test_dispatch.py",
    "flows/test_submit.py",
)
# Tests in these folders run one after the other, in one process: each starts Ray, Prefect or
# clusters of its own, and some look at all processes of the machine.
ALONE = ("flows/", "pipeline/store/test_ceph.py")
SERVERS = frozenset({"hub", "moto", "proxy", "s3", "s3_server", "server"})  # fixtures


class Scheduling(LoadScopeScheduling):
    """Tests of one file share a process, and so do all those of `ALONE`."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0].removeprefix("tests/")
        return "alone" if path.startswith(ALONE) else path


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """Return how `make test` shares out the tests among its processes."""
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark slow tests, which `make quick` leaves out: by path, or by a server as fixture."""
    folder = Path(__file__).parent
    for item in items:
        path = item.path.relative_to(folder).as_posix()
        by_path = path.startswith(SLOW) and not path.startswith(QUICK)
        if by_path or not SERVERS.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="session")
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep digests in a temporary cache, not in the user's own."""
    before = os.environ.get("ONTOGENY_CACHE")
    os.environ["ONTOGENY_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("ONTOGENY_CACHE")
    if before is not None:
        os.environ["ONTOGENY_CACHE"] = before


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Give a test that draws numbers the same ones, whichever tests came before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def own_log_handlers() -> Iterator[None]:
    """Remove the handlers that a flow has given our loggers.

    pytest's own may be among them, since it adds those to loggers that do not propagate, such as
    Prefect's: what later tests log would be in their `caplog` twice.
    """
    loggers = [logging.getLogger(name) for name in ("pipeline", "py.warnings")]
    before = [list(logger.handlers) for logger in loggers]
    yield
    for logger, handlers in zip(loggers, before, strict=True):
        logger.handlers[:] = handlers


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Return `make_run(steps=(0, 1, 2), name="run", **config)`, which writes random organisms."""

    def make(steps: Sequence[int] = (0, 1, 2, 4), name: str = "run", **config: object) -> Path:
        from pipeline.models.organism import OrganismForCausalLM
        from pipeline.models.organism_config import OrganismConfig

        shape = {"vocab_size": 40, "hidden_size": 16, "num_attention_heads": 2} | config
        for step in steps:
            torch.manual_seed(step)
            model = OrganismForCausalLM(OrganismConfig(**shape))  # type: ignore[arg-type]
            model.save_pretrained(tmp_path / name / f"step-{step}")
        return tmp_path / name

    return make
