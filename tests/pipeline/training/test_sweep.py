from pathlib import Path

import pytest
import yaml

from pipeline.errors import InputError
from pipeline.training import load_training
from pipeline.training.sweep import load_trainings

BASE = {
    "name": "grid",
    "output": "runs/grid",
    "task": {"kind": "modular_arithmetic", "p": 7},
    "model": {"num_hidden_layers": 1, "hidden_size": 8, "intermediate_size": 8},
    "optimizer": {"learning_rate": 1.0e-3},
    "steps": 2,
}


def written(tmp_path: Path, **changes) -> Path:
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(BASE | changes, sort_keys=False))
    return file


def test_every_combination_is_a_run_with_a_folder_of_its_own(tmp_path: Path):
    grid = {"task.train_share": [0.3, 0.4], "optimizer.weight_decay": [0.0, 1.0], "seed": [0, 1]}
    runs = load_trainings(written(tmp_path, sweep=grid))
    found = {(r.task.model_dump()["train_share"], r.optimizer.weight_decay, r.seed) for r in runs}
    assert found == {(s, w, seed) for s in (0.3, 0.4) for w in (0.0, 1.0) for seed in (0, 1)}
    assert len({run.output for run in runs}) == 8
    assert runs[0].output == str(tmp_path / "runs/grid/train_share-0.3_weight_decay-0.0_seed-0")


def test_a_file_without_a_sweep_is_one_run(tmp_path: Path):
    file = written(tmp_path)
    assert load_trainings(file) == [load_training(file)]
    assert load_trainings("modular-addition") == [load_training("modular-addition")]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"seed": 3}, "must give a list of values"),
        ({}, "must give a list of values"),
        ({"optimizer.wieght_decay": [1.0]}, "weight_decay"),
        ({"steps.more": [1]}, "'steps' is not a mapping"),
    ],
)
def test_a_bad_sweep_is_refused(tmp_path: Path, grid, message):
    with pytest.raises(InputError, match=message):
        load_trainings(written(tmp_path, sweep=grid))
