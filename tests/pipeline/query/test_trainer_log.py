"""The history that transformers' Trainer logged, as a series beside ours."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from flows.cli import app
from pipeline import Analysis, CheckpointError, InputError, analyze, list_checkpoints
from pipeline.checkpoints.trainer_log import read_trainer_log
from pipeline.config.analysis import Selection
from pipeline.models.organism import OrganismForCausalLM
from pipeline.models.organism_config import OrganismConfig
from pipeline.query.export import export
from pipeline.query.trainer_log import trainer_log
from pipeline.report import write_report
from pipeline.store import Store
from pipeline.store.verify import verify
from tests.pipeline.report.site.pages import read

HISTORY = [
    {"step": 5, "epoch": 0.5, "loss": 3.0, "learning_rate": 1e-3, "grad_norm": 2.0},
    {"step": 10, "epoch": 1.0, "loss": 2.5, "learning_rate": 5e-4, "grad_norm": math.nan},
    {"step": 10, "epoch": 1.0, "eval_loss": 2.75, "eval_runtime": 0.1},
    {"step": 5, "epoch": 0.5, "loss": 2.875},  # logged again after a resumed training
]


def save(folder: Path, step: int, state: Any) -> None:
    torch.manual_seed(step)
    config = OrganismConfig(vocab_size=20, hidden_size=8, num_attention_heads=2)
    checkpoint = folder / f"checkpoint-{step}"
    OrganismForCausalLM(config).save_pretrained(checkpoint)
    text = state if isinstance(state, str) else json.dumps(state)
    (checkpoint / "trainer_state.json").write_text(text)


def analysis(folder: Path) -> Analysis:
    tokens = folder / "tokens.npy"
    np.save(tokens, np.arange(64, dtype=np.uint16).reshape(2, 32) % 20)
    return Analysis.model_validate({
        "checkpoints": str(folder / "run"),
        "store": str(folder / "run.zarr"),
        "inputs": {"text": {"kind": "array", "path": str(tokens), "sequences": 2, "length": 32}},
        "measures": {"token_loss": {"early_token": 2, "late_token": 20}},
    })  # fmt: skip


def test_the_last_entry_of_a_step_counts(tmp_path: Path) -> None:
    save(tmp_path / "run", 10, {"log_history": HISTORY})
    summary = analyze(analysis(tmp_path))
    found = trainer_log(summary.store)
    assert found is not None and list(found.step) == [5, 10]
    np.testing.assert_array_equal(found["loss"], [2.875, 2.5])
    np.testing.assert_array_equal(found["eval_loss"], [math.nan, 2.75])
    np.testing.assert_array_equal(found["grad_norm"], [2.0, math.nan])
    assert found["loss"].attrs["units"] == "nats"
    assert found.attrs["left_out"] == ["eval_runtime"]

    # A log that has grown takes the place of the one before.
    save(tmp_path / "run", 20, {"log_history": [*HISTORY, {"step": 20, "loss": 2.0}]})
    for _ in range(2):
        analyze(analysis(tmp_path))
    grown = trainer_log(summary.store)
    assert grown is not None and list(grown["loss"].values) == [2.875, 2.5, 2.0]
    kept = Store(summary.store).objects.list("trainer_log")
    assert sorted(kept) == ["trainer_log/00000001.json", "trainer_log/00000002.json"]
    assert not verify(Store(summary.store)).foreign


def test_an_export_says_that_it_is_not_copied(tmp_path: Path) -> None:
    save(tmp_path / "run", 10, {"log_history": HISTORY})
    store = analyze(analysis(tmp_path)).store
    done = export(store, tmp_path / "plain.zarr")
    (said,) = done.left_out
    assert "the Trainer's log is not copied" in said
    _, _, command = said.partition("`ontogeny ")
    shown = CliRunner().invoke(app, command.partition("`")[0].split())
    assert shown.exit_code == 0 and "2.875" in shown.stdout
    result = CliRunner().invoke(app, ["store", "export", store, str(tmp_path / "b.zarr"), "--json"])
    assert json.loads(result.stdout)["left_out"] == [said]

    save(tmp_path / "other/run", 10, {"log_history": []})
    without = analyze(analysis(tmp_path / "other")).store
    assert export(without, tmp_path / "c.zarr").left_out == ()


def test_query_and_report_show_it(tmp_path: Path) -> None:
    save(tmp_path / "run", 10, {"log_history": HISTORY})
    store = analyze(analysis(tmp_path)).store
    result = CliRunner().invoke(app, ["query", store, "trainer_log/loss", "--json"])
    assert result.exit_code == 0, result.output
    expected = [{"step": 5, "loss": 2.875}, {"step": 10, "loss": 2.5}]
    assert json.loads(result.stdout) == expected
    beside = CliRunner().invoke(app, ["query", store, f"{store}/", "trainer_log/loss"])
    assert beside.exit_code == 2 and "side by side: give one store" in beside.stderr
    write_report([store], tmp_path / "site")
    page = next((tmp_path / "site").rglob("loss.html"))
    assert "the Trainer's training loss" in page.read_text()
    assert "loss-trainer" in read(page).specs


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("{", "is not valid JSON"),
        ("[]", "holds no JSON object"),
        ({"log_history": {"step": 1}}, "log_history is no list of objects"),
        ({"log_history": [{"step": "1", "loss": 1.0}]}, "has step '1', expected a whole number"),
        ({"log_history": [{"loss": 1.0}]}, "has step 'None', expected a whole number"),
        ('{"log_history": ' + "[" * 10**5 + "]" * 10**5 + "}", "is not valid JSON"),
        ({"max_steps": math.inf}, "which is not a finite number"),
    ],
)
def test_an_unsound_file_is_left_out(tmp_path: Path, state: Any, said: str) -> None:
    save(tmp_path / "run", 10, state)
    (checkpoint,) = list_checkpoints(str(tmp_path / "run"))
    with pytest.raises(CheckpointError, match=said):
        read_trainer_log(checkpoint)


def test_the_analysis_goes_on_without_it(tmp_path: Path) -> None:
    save(tmp_path / "run", 10, {"log_history": 3})
    summary = analyze(analysis(tmp_path))
    assert summary.worked and "the Trainer's log is left out: " in summary.notes[-1]
    assert trainer_log(summary.store) is None
    result = CliRunner().invoke(app, ["query", summary.store, "trainer_log/loss"])
    assert result.exit_code == 2 and "there is no 'trainer_log/loss'" in result.stderr


def test_a_damaged_log_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "run", 10, {"log_history": HISTORY})
    store = analyze(analysis(tmp_path)).store
    file = Path(store) / "trainer_log" / "00000001.json"
    sound = json.loads(file.read_text())
    for changed in ({"steps": 1}, {"steps": [5]}, {"steps": [5, 0.5]}, {"values": {"x": [1, 2]}}):
        file.write_text(json.dumps(sound | changed))
        with pytest.raises(InputError, match=r"00000001\.json: is damaged: remove it"):
            trainer_log(store)


def test_a_selection_keeps_the_whole_log(tmp_path: Path) -> None:
    save(tmp_path / "run", 10, {"log_history": HISTORY})
    save(tmp_path / "run", 20, {"log_history": [*HISTORY, {"step": 20, "loss": 2.0}]})
    selecting = {"select": Selection(steps=(10,))}
    store = analyze(analysis(tmp_path).model_copy(update=selecting)).store
    found = trainer_log(store)
    assert found is not None and list(found.step) == [5, 10, 20]


def test_odd_numbers_are_undefined(tmp_path: Path) -> None:
    entries = [{"step": 1, "loss": value} for value in ("3", True, None, 1)]
    entries = [{**one, "step": at} for at, one in enumerate(entries)]
    save(tmp_path / "run", 10, {"log_history": entries})
    (checkpoint,) = list_checkpoints(str(tmp_path / "run"))
    found = read_trainer_log(checkpoint)
    assert found is not None
    np.testing.assert_array_equal(found.values["loss"], [math.nan] * 3 + [1.0])
