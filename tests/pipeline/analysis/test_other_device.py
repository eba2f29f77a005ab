"""Whole analyses with `device: cuda`, on the simulated device: the store is that of the CPU."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

from pipeline import Analysis, analyze, open_run
from pipeline.training import load_training, train
from pipeline.training.schedule import Schedule
from tests.host_reads import HostReads
from tests.pipeline.analysis.test_run import analysis
from tests.simulated_cuda import simulated_cuda

MEASURES: dict[str, dict[str, Any]] = {
    "token_loss": {"early_token": 4, "late_token": 20},
    "head_scores": {},
    "head_labels": {},
    "repeat_loss": {},
    "composition": {},
    "copying": {},
    "qk_prefix_matching": {},
    "head_ablation": {},
    "attention_patterns": {},
    "weight_norm": {},
}


@pytest.fixture(autouse=True)
def device() -> Iterator[None]:
    with simulated_cuda():
        yield


def on_both(config: Analysis) -> tuple[xr.DataTree, xr.DataTree]:
    """Analyse on the CPU and on the device; return both stores."""
    stores = []
    for name in ("cpu", "cuda"):
        workers = config.workers.model_copy(update={"device": name})
        store = f"{config.store}-{name}"
        done = analyze(config.model_copy(update={"workers": workers, "store": store}))
        assert not done.failed and done.computed
        stores.append(open_run(store))
    return stores[0], stores[1]


def assert_equal(found: xr.DataTree, expected: xr.DataTree) -> None:
    assert found.children.keys() == expected.children.keys()
    for name, group in expected.children.items():
        own = found[name].to_dataset()
        xr.testing.assert_allclose(own, group.to_dataset(), rtol=1e-4, atol=1e-5)


def test_the_demonstrations_measures_of_text_are_stored_as_on_a_cpu(
    make_run: Callable[..., Path],
) -> None:
    config = analysis(make_run(steps=(0, 1, 2)), measures=MEASURES)
    expected, found = on_both(config)
    assert set(found.children) == set(MEASURES)
    assert_equal(found, expected)


def test_references_and_tables_are_stored_as_on_a_cpu(tmp_path: Path) -> None:
    preset = load_training("modular-addition")
    changes = {"output": str(tmp_path / "run"), "steps": 2}
    train(preset.model_copy(update=changes | {"checkpoints": Schedule(log_until=0, every=1)}))
    measures = ["modular_addition", "excluded_loss", "restricted_loss", "weight_norm"]
    config = {"checkpoints": changes["output"], "measures": measures}
    expected, found = on_both(
        Analysis.model_validate({**config, "store": str(tmp_path / "store.zarr")})
    )
    assert set(found.children) == set(measures)
    assert_equal(found, expected)


def test_the_host_does_not_wait_for_every_number(make_run: Callable[..., Path]) -> None:
    """Each wait costs a GPU its queue of work: their number must not grow with the tokens."""
    counts = []
    for length in (12, 24):
        config = analysis(
            make_run(steps=(0,)), measures={"token_loss": {"early_token": 2, "late_token": 9}}
        )
        text = config.inputs["text"].model_copy(update={"length": length})
        workers = config.workers.model_copy(update={"device": "cuda"})
        changes = {"inputs": {"text": text}, "workers": workers, "store": f"{config.store}{length}"}
        with HostReads.counted() as found:
            assert not analyze(config.model_copy(update=changes)).failed
        counts.append(sum(found.values()))
    assert 0 < counts[0] == counts[1]
