"""Two analyses of one store: the second is refused until the first has ended."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.analysis.preflight import prepare
from pipeline.analysis.survey import survey
from pipeline.config import load_analysis
from pipeline.store import Store
from pipeline.store.lease import owned
from tests.flows.conftest import STEPS
from tests.flows.test_cli import ontogeny
from tests.pipeline.store import killed


@pytest.fixture
def config(make_analysis: Callable[..., Any], tmp_path: Path) -> Path:
    analysis = make_analysis(measures=["weight_norm"], inputs={}, workers={"count": 1})
    config = tmp_path / "analysis.yaml"
    config.write_text(json.dumps(analysis.model_dump(mode="json")))
    return config


def hold(uri: str, holding: Any) -> None:
    with owned(Store(uri)):
        holding.set()
        time.sleep(600)


@pytest.fixture
def holder(config: Path) -> Iterator[Any]:
    """A process that owns the store of the analysis."""
    analysis = load_analysis(str(config))
    prepare(analysis, survey(analysis))
    holding = killed.CONTEXT.Event()
    process = killed.process_of(hold, analysis.store, holding)
    process.start()
    assert holding.wait(300)
    yield process
    process.kill()
    process.join()


@pytest.mark.usefixtures("server")
def test_the_second_is_refused_and_takes_over_from_the_dead(
    holder: Any, config: Path, tmp_path: Path
) -> None:
    for how in ([], ["--serial"]):
        refused = ontogeny("analyze", config, *how)
        assert refused.exit_code == 2
        sentence = refused.stderr.splitlines()[-1]
        assert f"another analysis owns the store (process {holder.pid} on" in sentence

    holder.kill()
    holder.join()
    taken = ontogeny("analyze", config, "--serial")
    assert taken.exit_code == 0, (
        f"not taken over at once, where the owner is known to be dead: {taken.output}"
    )
    store = Store(str(tmp_path / "store.zarr"))
    assert sorted({commit.step for commit in store.commits()}) == list(STEPS)
