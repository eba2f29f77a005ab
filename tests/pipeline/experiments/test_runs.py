"""Runs of experiments: carried out once, found again after a move, continued, and told apart."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.experiments import runs as module
from pipeline.experiments.experiment import Experiment, run_experiment
from pipeline.experiments.runs import CHECKPOINTS, STORES, Result, SerialRuns, carry_out
from pipeline.experiments.settings import modular, substrings, text
from pipeline.measures import registry
from tests.pipeline.experiments.tiny import TINY, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which the tiny experiment has been carried out."""
    folder = tmp_path_factory.mktemp("experiments")
    run_experiment(TINY, SerialRuns(folder))
    return folder


def refuse(*_: object) -> None:
    raise AssertionError("a finished run was carried out again")


def test_a_finished_run_is_found_again_also_in_a_moved_folder(folder, tmp_path, monkeypatch):
    first = run_experiment(TINY, SerialRuns(folder))
    moved = shutil.copytree(folder, tmp_path / "moved")
    monkeypatch.setattr(module, "train", refuse)
    monkeypatch.setattr(module, "analyze", refuse)
    again = run_experiment(TINY, SerialRuns(moved))
    assert again.findings == first.findings
    assert again.seconds == first.seconds > 0
    assert all(store.startswith(str(moved)) for store in again.stores)


def test_the_numbers_are_those_of_the_weights(folder):
    result = carry_out(run(1), folder)
    assert result.seed == 1
    stored = float(result.group("weight_norm").sum_of_squares[-1])
    from safetensors.numpy import load_file

    weights = load_file(Path(result.checkpoint()) / "model.safetensors")
    assert stored == pytest.approx(
        sum(np.square(w, dtype=np.float64).sum() for w in weights.values())
    )


def test_an_interrupted_run_is_continued(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    # As after a kill between training and the end of the analysis.
    (done,) = [path for path in (copy / STORES).glob("*.json") if path.stem in str(_store(copy, 0))]
    done.unlink()
    shutil.rmtree(_store(copy, 0))
    before = {path: path.stat().st_mtime_ns for path in (copy / CHECKPOINTS).rglob("*.safetensors")}
    result = carry_out(run(0), copy)
    assert done.is_file() and result.group("weight_norm").sizes["step"] > 2
    assert before == {p: p.stat().st_mtime_ns for p in (copy / CHECKPOINTS).rglob("*.safetensors")}


def test_another_version_of_a_measure_is_computed(folder, tmp_path, monkeypatch):
    copy = shutil.copytree(folder, tmp_path / "copy")
    monkeypatch.setattr(registry()["weight_norm"], "version", 1000)
    monkeypatch.setattr(module, "train", lambda _: None)
    result = carry_out(run(0), copy)
    assert result.group("weight_norm").attrs["version"] == 1000
    monkeypatch.setattr(module, "analyze", refuse)
    assert carry_out(run(0), copy).seconds == result.seconds


def _store(folder: Path, seed: int) -> Path:
    return Path(carry_out(run(seed), folder).store)


@pytest.mark.parametrize(
    "other",
    [
        run(2), run(0, optimizer={"weight_decay": 0.5}), run(0, model={"layer_norm": True}),
        replace(run(), measures={"weight_norm": {}, "modular_addition": {}}),
        replace(run(), inputs={"table": {"kind": "table", "split_seed": 1}}),
        replace(run(), select={"every": 2}),
    ],
)  # fmt: skip
def test_runs_that_differ_are_told_apart(folder, other):
    assert module.digest(module.content(other)) != module.digest(module.content(run()))


def test_a_text_is_told_by_its_content(tmp_path):
    def digest_of(name: str, content: str) -> str:
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        module._text_version.cache_clear()  # as in another process
        of_text = module.Run(text(2, 0, task={"path": str(path)}), {"weight_norm": {}})
        return module.digest(module.content(of_text))

    first = digest_of("a.txt", "one text")
    assert digest_of("b.txt", "one text") == first
    assert digest_of("a.txt", "another text") != first


def test_names_and_places_make_no_difference():
    named = replace(run(), training=run().training.model_copy(update={"name": "b", "output": "c"}))
    assert module.digest(module.content(named)) == module.digest(module.content(run()))


def test_equal_runs_are_carried_out_once(folder, monkeypatch):
    asked, progress = [], []
    monkeypatch.setattr(module, "carry_out", lambda one, _: asked.append(one) or _result(one))
    made = SerialRuns(folder, progress=lambda *done: progress.append(done)).results(
        [run(0), run(1), run(0)]
    )
    assert [one.seed for one in made] == [0, 1, 0] and made[0] is made[2]
    assert len(asked) == 2
    assert progress == [(1, 2, "modular-5, seed 0"), (2, 2, "modular-5, seed 1")]


def _result(one: module.Run) -> Result:
    return Result(one, Path(), "", 0.0)


def test_a_failed_run_is_named_after_the_others_are_done(tmp_path):
    diverging = run(1, optimizer={"kind": "sgd", "betas": (0.9, 0.999), "learning_rate": 1e9})
    with pytest.raises(
        InputError, match=r"1 of 2 runs failed: modular-5, seed 1: .*loss is nan after 1 step"
    ):
        SerialRuns(tmp_path).results([diverging, run(0)])
    assert len(list((tmp_path / STORES).glob("*.json"))) == 1  # that of the other


def test_every_claim_needs_its_finding(folder):
    forgets = Experiment("forgets", "Forgets", TINY.claims, lambda _: iter(()))
    with pytest.raises(InputError, match=r"one finding for each of weights-have-a-norm"):
        run_experiment(forgets, SerialRuns(folder))


def test_changes_reach_nested_fields_only():
    training = substrings(1, 3, 7, model={"smeared_keys": True}, task={"context": 40})
    assert training.model.smeared_keys and training.model.hidden_size == 64
    assert (training.task.context, training.task.vocabulary) == (40, 32)
    assert (training.seed, training.steps, training.model.num_hidden_layers) == (3, 7, 1)
    assert modular(p=23, seed=4).task.split_seed == 4


def test_a_transplant_is_named_by_the_donors_run_wherever_that_is(tmp_path):
    names = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        donor = {"checkpoint": str(folder / CHECKPOINTS / "donor-123" / "step-20"),
                 "parameters": ["lm_head.weight"]}  # fmt: skip
        names.append(
            module.digest(module.content(run(keep=[donor]), Path(os.path.realpath(folder))))
        )
    assert names[0] == names[1]
