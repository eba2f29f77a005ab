"""Controls of experiments on small models: random answers, and a measure with a flipped sign."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.experiments.claims import DOES_NOT_HOLD, HOLDS, Finding, finding
from pipeline.experiments.grokking import AHEAD, GENERALISES, answer
from pipeline.experiments.runs import SerialRuns
from pipeline.measures.modular import fourier

SETTING = {
    "p": 23, "train_share": 0.8, "steps": 500, "model": {"hidden_size": 32,
    "intermediate_size": 128}, "optimizer": {"learning_rate": 1e-2},
    "checkpoints": {"log_until": 1, "every": 20},
}  # fmt: skip


def findings(folder: Path, **changes) -> dict[str, Finding]:
    runs = SerialRuns(folder, quick=True)
    return {one.claim.name: one for one in answer(runs, **SETTING, **changes)}


def verdict_on_known(found: Finding) -> str:
    """Return the verdict on the seeds that generalise, for which alone it is defined."""
    known = {seed: one for seed, one in found.effect.by_seed.items() if np.isfinite(one)}
    return finding(found.claim, replace(found.effect, by_seed=known), found.region).verdict


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trained")


@pytest.fixture(scope="module")
def sound(trained: Path) -> dict[str, Finding]:
    return findings(trained)


def test_models_generalise_on_addition_and_not_on_random_answers(sound, tmp_path: Path):
    # Two seeds of three know their test pairs at the end, and the third some of them.
    assert sound[GENERALISES.name].verdict != DOES_NOT_HOLD
    assert sorted(sound[GENERALISES.name].effect.by_seed.values())[1] > 0.9
    random = findings(tmp_path, task={"operation": "random"})[GENERALISES.name]
    assert random.verdict == DOES_NOT_HOLD
    assert random.high < 0.01  # the answer is not among those that the model thinks likely


def test_a_flipped_sign_in_a_measure_changes_a_verdict(
    sound, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert verdict_on_known(sound[AHEAD.name]) == HOLDS
    projected = fourier.projected
    monkeypatch.setattr(fourier, "projected", lambda *given: -projected(*given))
    shutil.copytree(trained / "checkpoints", tmp_path / "checkpoints")  # analysed again, elsewhere
    broken = findings(tmp_path)
    assert broken[GENERALISES.name].effect == sound[GENERALISES.name].effect
    assert verdict_on_known(broken[AHEAD.name]) != HOLDS
