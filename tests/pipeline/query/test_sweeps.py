"""A sweep that is trained, analysed and tabulated, small enough to take seconds."""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from flows.cli import app
from pipeline import analyze
from pipeline.aggregate.phases import summary_of
from pipeline.analysis.runs import analyses_of
from pipeline.config import Analysis
from pipeline.errors import InputError
from pipeline.query import open_run
from pipeline.query.sweeps import grokking_table, stores_in
from pipeline.training import train
from pipeline.training.sweep import load_trainings

SWEEP = {
    "name": "grid",
    "output": "runs",
    "task": {"kind": "modular_arithmetic", "p": 7, "train_share": 0.8},
    "model": {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2,
              "intermediate_size": 32, "layer_norm": False},
    "optimizer": {"learning_rate": 1.0e-2, "weight_decay": 0.1, "betas": [0.9, 0.98]},
    "steps": 60,
    "threads": 1,
    "checkpoints": {"log_until": 1, "every": 20},
    "sweep": {"optimizer.weight_decay": [0.1, 1.0], "seed": [0, 1]},
}  # fmt: skip


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> list[Analysis]:
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "sweep.yaml").write_text(yaml.safe_dump(SWEEP))
    for training in load_trainings(folder / "sweep.yaml"):
        train(training)
    whole = Analysis.model_validate(
        {
            "checkpoints": str(folder / "runs"),
            "store": str(folder / "stores"),
            "measures": ["modular_addition"],
            "workers": {"threads": 1},
        }
    )
    analyses = analyses_of(whole)
    for one in analyses:
        assert not analyze(one).failed
    return analyses


def test_each_run_of_the_folder_has_a_store_of_its_own(collection: list[Analysis]):
    assert len(collection) == 4
    assert len({one.store for one in collection}) == 4
    assert analyses_of(collection[0]) == [collection[0]]


def test_the_table_has_the_differing_settings_and_the_steps(collection: list[Analysis]):
    table = grokking_table(stores_in(str(Path(collection[0].store).parent)))
    settings = set(zip(table["weight_decay"], table["seed"], strict=True))
    assert settings == {(0.1, 0), (0.1, 1), (1.0, 0), (1.0, 1)}
    assert "train_share" not in table and "output" not in table
    for one, row in zip(collection, table.to_dict("records"), strict=True):
        assert row["run"] == Path(one.checkpoints).name
        group = open_run(one.store)["modular_addition"].to_dataset().load()
        below = group["train_loss"].values < 0.1
        expected = group["step"].values[below.argmax()] if below.any() else None
        if expected is not None and below[below.argmax() :].all():
            assert row["memorised"] == expected
        falls = summary_of(group)["test_falls"]
        if falls is not None:
            then = float(group["restricted_loss"].sel(step=falls))
            assert row["restricted_then"] == pytest.approx(then)
    assert table["memorised"].count() > 0
    assert str(table["restricted_then"].dtype) == "float64"


def test_the_command_prints_the_table(collection: list[Analysis]):
    folder = str(Path(collection[0].store).parent)
    printed = CliRunner().invoke(app, ["sweep", folder, "--json"])
    assert printed.exit_code == 0
    expected = grokking_table(stores_in(folder))
    found = pd.DataFrame(json.loads(printed.stdout)).astype(expected.dtypes)
    pd.testing.assert_frame_equal(found, expected)
    for_people = CliRunner().invoke(app, ["sweep", collection[0].store]).stdout
    assert Path(collection[0].store).stem in for_people and "restricted_then" in for_people
    assert "NA" not in for_people


def test_a_store_without_the_losses_is_refused(collection: list[Analysis], tmp_path: Path):
    other = collection[0].model_copy(
        update={"measures": {"weight_norm": {}}, "store": str(tmp_path / "norms.zarr")}
    )
    analyze(other)
    with pytest.raises(InputError, match="norms: holds no rows of the measure 'modular_addition'"):
        grokking_table([other.store])
