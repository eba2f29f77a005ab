"""Averages of the weights beside a model are told, and not read."""

import shutil
from pathlib import Path

import pytest
import torch

from pipeline.checkpoints import list_run
from pipeline.checkpoints.averages import is_of_averages
from pipeline.checkpoints.foreign import conversion_notes, ordinary_run
from tests.pipeline.checkpoints.conftest import WriteCheckpoint
from tests.pipeline.checkpoints.test_foreign import RELU, authors


def test_the_listing_names_them(write_checkpoint: WriteCheckpoint, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        folder = write_checkpoint(tmp_path / f"run/step-{step}", step)
        if step < 3:
            shutil.copy(folder / "model.safetensors", folder / "model_ema.safetensors")
    listing = list_run(str(tmp_path / "run"))
    assert [one.step for one in listing.checkpoints] == [1, 2, 3]
    (note,) = listing.notes
    assert "2 checkpoints have averages" in note and "model_ema.safetensors" in note
    assert note in listing.as_json()["notes"]


def test_the_notes_of_a_conversion_name_them(tmp_path: Path) -> None:
    for step in (0, 5):
        state = authors(step)
        saved = {"model": state, "model_ema": authors(step + 1), "schema": {"a": 1}}
        saved |= {"ema": {"decay": 0.9}, "ema_model": {"shadow": authors(step + 2), "decay": 0.9}}
        torch.save(saved, tmp_path / f"{step}.pth")
    run = ordinary_run(str(tmp_path), RELU)
    (note,) = [one for one in conversion_notes(run) if "averages" in one]
    assert "its 'model_ema'" in note and "its 'ema_model'" in note
    assert "schema" not in note and "'ema'" not in note
    assert [one.step for one in list_run(str(run)).checkpoints] == [0, 5]


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("ema.pt", True), ("model_ema.bin", True), ("EMA-model.safetensors", True),
        ("pytorch_model.ema.bin", True), ("schema.bin", False), ("emails.pt", False),
        ("cinema.safetensors", False), ("model.safetensors", False),
    ],
)  # fmt: skip
def test_names(name: str, is_one: bool) -> None:
    assert is_of_averages(name) == is_one
