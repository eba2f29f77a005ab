"""A config.json that is missing, truncated or another model's fails its own checkpoint only."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline import Analysis, InputError, analyze, open_run
from pipeline.analysis.estimate import dry_run
from pipeline.auditing import audit
from pipeline.checkpoints import config_keys
from pipeline.store import Store
from pipeline.store.fingerprint import digest_of

TOKENS = np.random.default_rng(0).integers(0, 101, (8, 32))
Change = Callable[[Path], object]


def make(folder: Path, steps: Sequence[int]) -> dict[int, float]:
    """Save a tiny llama at each step; return its mean loss by plain transformers."""
    means = {}
    for step in steps:
        torch.manual_seed(step)
        config = AutoConfig.for_model(
            "llama", vocab_size=101, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=64, max_position_embeddings=64, initializer_range=0.25,
        )  # fmt: skip
        model = AutoModelForCausalLM.from_config(config)
        model.save_pretrained(folder / f"step-{step}")
        ids = torch.from_numpy(TOKENS)
        with torch.inference_mode():
            means[step] = float(model.eval()(ids, labels=ids).loss)
    return means


def config_of(run: Path, step: int) -> Path:
    return run / f"step-{step}/config.json"


def edited(step: int, **changes: Any) -> Change:
    def edit(run: Path) -> None:
        file = config_of(run, step)
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return edit


def written(step: int, text: str) -> Change:
    return lambda run: config_of(run, step).write_text(text)


def as_version_4(run: Path, step: int) -> None:
    file = config_of(run, step)
    config = json.loads(file.read_text())
    config |= {"rope_theta": config.pop("rope_parameters")["rope_theta"], "rope_scaling": None}
    file.write_text(json.dumps(config))


def without_saved(run: Path, step: int) -> dict[str, Any]:
    config = json.loads(config_of(run, step).read_text())
    left_out = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache")
    return {key: value for key, value in config.items() if key not in left_out}


def analysis(run: Path, **changes: Any) -> Analysis:
    np.save(run.parent / "tokens.npy", TOKENS)
    text = {"kind": "array", "path": str(run.parent / "tokens.npy"), "sequences": 8, "length": 32}
    content = {
        "checkpoints": str(run),
        "store": str(run.parent / "store.zarr"),
        "inputs": {"text": text},
        "measures": {"token_loss": {"early_token": 5, "late_token": 30}},
    }
    return Analysis.model_validate(content | changes)


def stored(run: Path) -> dict[int, float]:
    loss = open_run(str(run.parent / "store.zarr"))["token_loss"]["mean"]
    return dict(zip(loss.step.values.tolist(), loss.values.tolist(), strict=True))


@pytest.mark.parametrize("step", [1, 2])
def test_the_spellings_of_two_versions_are_computed_alike(step: int, tmp_path: Path) -> None:
    expected = make(tmp_path / "run", (1, 2))
    as_version_4(tmp_path / "run", step)
    assert not audit(str(tmp_path / "run")).faults
    summary = analyze(analysis(tmp_path / "run"))
    assert summary.computed == [1, 2] and not summary.failed
    assert stored(tmp_path / "run") == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"pad_token_id": 0}, {"eos_token_id": [1, 2]}, {"_attn_implementation_autoset": True},
        {"attention_dropout": 0.1}, {"architectures": ["Other"]},
        {"max_position_embeddings": 2048},
    ],
)  # fmt: skip
def test_what_changes_no_forward_pass_stops_nothing(changes: Any, tmp_path: Path) -> None:
    expected = make(tmp_path / "run", (1, 2, 3))
    edited(3, **changes)(tmp_path / "run")
    assert not audit(str(tmp_path / "run")).faults
    assert not dry_run(analysis(tmp_path / "run")).failed
    assert not analyze(analysis(tmp_path / "run")).failed
    assert stored(tmp_path / "run") == pytest.approx(expected, abs=1e-5)


def test_configs_that_state_their_own_step_are_of_one_model(tmp_path: Path) -> None:
    expected = make(tmp_path / "run", (1, 2, 3))
    for step in (1, 2, 3):
        progress = {"global_step": step, "epoch": step / 3, "tokens_seen": step * 512}
        edited(step, **progress)(tmp_path / "run")
    assert not audit(str(tmp_path / "run")).faults
    assert not analyze(analysis(tmp_path / "run")).failed
    assert stored(tmp_path / "run") == pytest.approx(expected, abs=1e-5)
    # The store knows the run by its config, also where the first checkpoint is gone.
    shutil.rmtree(tmp_path / "run/step-1")
    summary = analyze(analysis(tmp_path / "run"))
    assert (summary.failed, summary.computed, summary.complete) == ({}, [], 2)


def test_a_store_with_the_digest_of_a_whole_config_is_known_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    make(run, (1, 2))
    for step in (1, 2):
        edited(step, global_step=step, saved_at=f"day {step}")(run)
    with monkeypatch.context() as patch:  # as stores were made once
        patch.setattr(config_keys, "_is_progress", lambda key, value: False)
        assert analyze(analysis(run)).computed == [2]
    identity = Store(str(tmp_path / "store.zarr")).version().identity
    assert identity["architecture"] == digest_of(without_saved(run, 2))
    summary = analyze(analysis(run))
    assert (summary.computed, summary.complete, summary.failed) == ([1], 1, {})
    assert Store(str(tmp_path / "store.zarr")).version().identity == identity


def test_ordinary_configs_keep_their_digest(tmp_path: Path) -> None:
    make(tmp_path / "run", (1,))
    analyze(analysis(tmp_path / "run"))
    identity = Store(str(tmp_path / "store.zarr")).version().identity
    assert identity["architecture"] == digest_of(without_saved(tmp_path / "run", 1))


def test_only_numbers_say_how_far_a_model_was_trained() -> None:
    settings = {"model_type": "own", "loss": "mse", "step": True, "iter": [1, 2], "steps": 3}
    progress = {"loss": 2.5, "step": 100, "iter": 7, "timestamp": "2020-01-01"}
    assert config_keys.identifying(settings) == settings
    assert config_keys.identifying(progress | {"n": 1}) == {"n": 1}


ROPE = {"rope_theta": 500000.0, "rope_type": "default"}
FAULTY: dict[str, tuple[int, Change, str]] = {
    "torn": (3, written(3, '{"model_type": "llama"'), "not valid JSON"),
    "torn, the first": (1, written(1, '{"model_type": "llama"'), "not valid JSON"),
    "missing": (4, lambda run: config_of(run, 4).unlink(), "is missing"),
    "no object": (2, written(2, "[1]"), "no JSON object"),
    "deep": (2, written(2, '{"a":' * 50000 + "1" + "}" * 50000), "config.json"),
    "deep lists": (2, written(2, '{"a":' + "[" * 500 + "]" * 500 + "}"), "levels deep"),
    "a pointer": (2, written(2, "version https://git-lfs.github.com/spec/v1\noid"), "git lfs pull"),
    "odd": (1, edited(1, hidden_size="abc"), "hidden_size = 'abc', expected 32"),
    "not a number": (2, edited(2, rms_norm_eps=float("nan")), "rms_norm_eps"),
    "not to be built": (4, edited(4, hidden_act="nonsense"), "hidden_act"),
    "theta": (1, edited(1, rope_parameters=ROPE), "rope_theta = 500000.0, expected 10000.0"),
    "vocabulary": (4, edited(4, vocab_size=105), "vocab_size = 105, expected 101"),
    "too short": (1, edited(1, max_position_embeddings=16), "= 16, expected at least 32"),
}


@pytest.mark.parametrize("case", FAULTY)
def test_a_bad_config_is_its_own_checkpoints_fault(case: str, tmp_path: Path) -> None:
    step, change, says = FAULTY[case]
    expected = make(tmp_path / "run", (1, 2, 3, 4))
    change(tmp_path / "run")
    audited = {fault.step for fault in audit(str(tmp_path / "run")).faults}
    assert audited == (set() if case == "too short" else {step})
    estimate = dry_run(analysis(tmp_path / "run"))
    summary = analyze(analysis(tmp_path / "run"))
    assert list(summary.failed) == [step] and estimate.failed == summary.failed
    assert says in summary.failed[step] and f"step {step}" in summary.failed[step]
    assert "\n" not in summary.failed[step]
    del expected[step]
    assert stored(tmp_path / "run") == pytest.approx(expected, abs=1e-5)


def test_without_any_config_there_is_one_sentence(tmp_path: Path) -> None:
    make(tmp_path / "run", (1, 2))
    for step in (1, 2):
        config_of(tmp_path / "run", step).unlink()
    with pytest.raises(InputError, match=r"step-1/config.json: is missing.*1 more"):
        analyze(analysis(tmp_path / "run"))
    assert not (tmp_path / "store.zarr").exists()


def test_of_two_that_differ_the_last_one_counts(tmp_path: Path) -> None:
    make(tmp_path / "run", (1, 2))
    edited(1, rope_parameters=ROPE)(tmp_path / "run")
    summary = analyze(analysis(tmp_path / "run"))
    assert summary.computed == [2] and list(summary.failed) == [1]


def test_the_model_of_a_store_stays_though_most_are_another(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make(run, (1, 2))
    analyze(analysis(run))
    make(run, (3, 4, 5))
    for step in (3, 4, 5):
        edited(step, rope_parameters=ROPE)(run)
    summary = analyze(analysis(run))
    assert summary.complete == 2 and list(summary.failed) == [3, 4, 5]
    assert "expected 10000.0 as in" in summary.failed[3]


def test_a_store_is_known_again_by_what_its_config_means(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make(run, (1, 2, 3))
    as_version_4(run, 1)
    assert analyze(analysis(run, select={"steps": [1]})).computed == [1]
    assert analyze(analysis(run, select={"steps": [2, 3]})).computed == [2, 3]
    assert analyze(analysis(run)).complete == 3


def test_what_needs_the_last_checkpoint_is_not_taken_from_another(tmp_path: Path) -> None:
    from pipeline.analysis.plan import stored_references
    from pipeline.analysis.preflight import prepare
    from pipeline.analysis.survey import survey

    make(tmp_path / "run", (1, 2))
    config_of(tmp_path / "run", 2).unlink()
    asked = analysis(tmp_path / "run", audit="off")
    prepared = prepare(asked, survey(asked))
    assert list(prepared.failed) == [2]
    assert [one.step for one in prepared.checkpoints] == [1]
    assert stored_references(prepared) == {}
