"""An estimate agrees with the run that follows."""

from pathlib import Path

import numpy as np
import pytest

from pipeline import Analysis, analyze, open_run
from pipeline.analysis.estimate import dry_run
from pipeline.config import PRESETS, load_analysis
from pipeline.errors import InputError


@pytest.fixture
def analysis(make_run, tmp_path) -> Analysis:
    return Analysis.model_validate(
        {
            "checkpoints": str(make_run(range(7))),
            "store": str(tmp_path / "a.zarr"),
            "measures": {
                "weight_norm": {},
                "head_scores": {"select": {"steps": [0, 6]}},
                "head_scores.longer": {},
            },
            "inputs": {"longer": {"kind": "repeated", "block_length": 9, "sequences": 2}},
            "select": {"every": 3},
        }
    )


def test_an_estimate_is_what_the_run_then_takes(analysis, monkeypatch):
    estimate = dry_run(analysis)
    assert not Path(analysis.store).exists()
    assert analyze(analysis).computed == [0, 3, 6]
    stored = sum(
        array.nbytes
        for group in open_run(analysis.store).children.values()
        for name, array in group.data_vars.items()
        if array.dtype.kind == "f" and name not in ("tokens_seen",)
    )
    sizes = [
        (Path(analysis.checkpoints) / f"step-{s}/model.safetensors").stat().st_size
        for s in (0, 3, 6)
    ]
    assert (estimate.checkpoints, estimate.masked) == (3, 0)
    assert estimate.bytes_to_read == sum(sizes) and estimate.bytes_to_fetch == 0
    assert estimate.forward_passes == 2 + 3
    assert estimate.store_bytes == pytest.approx(2 * stored, rel=0.02), "rows and trajectories"
    files = [path for path in Path(analysis.store).rglob("*") if path.is_file()]
    assert estimate.store_files == pytest.approx(len(files), abs=4)
    assert 0 < estimate.hours < 1


def test_more_workers_take_less_time(analysis):
    one, four = (
        np.median(
            [
                dry_run(
                    analysis.model_copy(
                        update={"workers": analysis.workers.model_copy(update={"count": count})}
                    )
                ).hours
                for _ in range(3)
            ]
        )
        for count in (1, 4)
    )
    assert one > 1.5 * four


def test_what_the_run_would_refuse_is_refused(analysis):
    pytest.importorskip("httpx2", reason="the extra hub is not installed")
    refused = analysis.model_copy(update={"checkpoints": "hf://"})
    with pytest.raises(InputError) as error:
        analyze(refused)
    assert [fault.message for fault in dry_run(refused).faults] == [str(error.value)]


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_every_preset_is_a_valid_analysis(preset):
    assert load_analysis(preset).measures
