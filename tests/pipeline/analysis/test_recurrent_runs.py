"""Runs of recurrent and hybrid models, from their files to the findings and the report."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from flows.cli import app
from pipeline import Analysis, analyze, open_run
from pipeline.aggregate.series import series_blocks
from pipeline.aggregate.vestigial import vestigial
from pipeline.analysis.draft.seen import Machine
from pipeline.analysis.draft.write import draft_analysis
from pipeline.analysis.estimate import dry_run
from pipeline.analysis.faults import RefusedError
from pipeline.auditing import audit
from pipeline.config import load_analysis
from pipeline.findings.sentences import by_measure, findings
from pipeline.models.architecture import without_memory
from pipeline.models.forward_dtype import refuse_dtype
from pipeline.report.site.heads import heads_in
from pipeline.report.site.run_data import Run
from pipeline.report.site.scores import scores_of
from tests.pipeline.engine.test_recurrent import losses_of
from tests.pipeline.recurrent_families import config_of, plain_model

STEPS = (1, 2, 4)
BLOCKS = {"kind": "repeated", "block_length": 16, "sequences": 4}
LOSSES: dict[str, Any] = {"token_loss": {"early_token": 5, "late_token": 30}}
WEIGHTS: dict[str, Any] = {"weight_norm": {}}
HEADS: dict[str, Any] = {"head_scores": {}, "head_labels": {}, "sink": {}}

Save = Callable[[str], Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Return a function that saves three checkpoints of a family, as transformers writes them."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "ids.npy", rng.integers(3, 101, (4, 32)))

    def saved(family: str) -> Path:
        for step in STEPS:
            model = plain_model(config_of(family), step)
            model.save_pretrained(tmp_path / "run" / f"step-{step}")
        return tmp_path / "run"

    return saved


def analysis(run: Path, **measures: Any) -> Analysis:
    text = {"kind": "array", "path": str(run.parent / "ids.npy"), "sequences": 4, "length": 32}
    return Analysis.model_validate(
        {
            "checkpoints": str(run),
            "store": str(run.parent / "store.zarr"),
            "inputs": {"text": text, "repeated": BLOCKS},
            "measures": measures,
        }
    )


@pytest.mark.parametrize("family", ["mamba", "nemotron_h"])
def test_a_run_is_audited_estimated_and_computed(family: str, save: Save) -> None:
    run = save(family)
    assert not audit(str(run)).faults
    given = analysis(run, **LOSSES, **WEIGHTS, repeat_loss={}, residual_norm={})
    estimate = dry_run(given)
    assert estimate.faults == () and estimate.checkpoints == 3
    assert estimate.hours is not None and estimate.hours < 0.1
    assert analyze(given).failed == {}
    stored, tokens = open_run(given.store), torch.from_numpy(np.load(run.parent / "ids.npy"))
    for step in STEPS:
        model = plain_model(config_of(family), step)
        found = stored["token_loss"].loss.sel(step=step).values
        np.testing.assert_allclose(found, losses_of(model, tokens), atol=1e-5)
        squares = sum(float(w.double().square().sum()) for w in model.parameters())
        norm = float(stored["weight_norm"].sum_of_squares.sel(step=step))
        assert norm == pytest.approx(squares, rel=1e-6)
    said = " ".join(findings(given.store))
    assert ("has no attention heads, so that none can have formed" in said) == (family == "mamba")
    assert ("it is unknown whether induction heads formed" in said) == (family == "nemotron_h")


def test_measures_of_heads_are_refused_before_anything_is_computed(save: Save) -> None:
    given = analysis(save("mamba2"), **LOSSES, **HEADS)
    with pytest.raises(RefusedError) as refused:
        analyze(given)
    for name in HEADS:
        assert (
            f"measure {name!r} needs attention heads, and this model (Mamba2ForCausalLM) has none: "
            "leave it out"
        ) in str(refused.value)
    assert not Path(given.store).exists()
    assert [fault.about for fault in dry_run(given).faults] == [f"measures.{n}" for n in HEADS]


def test_a_dtype_in_which_a_model_does_not_compute_is_refused(save: Save) -> None:
    given = analysis(save("xlstm"), **LOSSES)
    half = {"workers": given.workers.model_copy(update={"dtype": "bfloat16"})}
    halved = given.model_copy(update=half)
    with pytest.raises(RefusedError, match="xLSTMForCausalLM computes in float32, but not in bfl"):
        analyze(halved)
    assert not Path(given.store).exists()
    (fault,) = dry_run(halved).faults
    assert fault.about == "workers" and "set `workers: {dtype: float32}`" in fault.message
    no_pass = halved.model_copy(update={"measures": analysis(save("xlstm"), **WEIGHTS).measures})
    assert analyze(no_pass).failed == {} and analyze(given).failed == {}


@pytest.mark.parametrize("family", ["mamba", "rwkv", "bamba", "granitemoehybrid"])
def test_models_that_compute_in_bfloat16_are_not_refused(family: str) -> None:
    with torch.inference_mode():
        plain_model(config_of(family)).to(torch.bfloat16)(torch.arange(3, 35)[None])
    refuse_dtype(without_memory(config_of(family)), "bfloat16")


def test_layers_without_heads_are_no_heads_in_findings_and_report(save: Save) -> None:
    beside = {"direct_logits": {}, "attention_patterns": {"length": 16}}
    given = analysis(save("bamba"), **LOSSES, **HEADS, **beside)
    summary = analyze(given)
    assert summary.failed == {} and summary.not_finite == {}
    stored = open_run(given.store)
    scores = stored["head_scores"].to_dataset()
    assert scores.attrs["layers_without_heads"] == [0, 2]
    assert scores.sizes["layer"] == 4 and bool(scores.induction.sel(layer=[0, 2]).isnull().all())
    assert bool(scores.induction.sel(layer=[1, 3]).notnull().all())
    said = findings(given.store)
    assert not [one for one in said if "finite" in one], said
    assert [one for one in said if one.startswith("No induction head formed by step 4")]
    groups = by_measure(stored)
    assert groups["head_scores"]["head_scores"]["layer"].values.tolist() == [1, 3]
    assert groups["attention_patterns"]["attention_patterns"]["layer"].values.tolist() == [1, 3]
    # Its shares of heads are of layers 1 and 3 alone, and those of the rest of all.
    assert groups["direct_logits"]["direct_logits"]["layer"].values.tolist() == [0, 1, 2, 3]
    run = Run("run", "run", given.store, stored)
    assert {head.layer for head in heads_in(run)} == {1, 3}
    assert {tuple(score.layers) for score in scores_of(run)} == {(1, 3)}
    blocks = {(one.group, one.variable): one.values for one in series_blocks(stored)}
    assert blocks["direct_logits", "by_head"]["layer"].values.tolist() == [1, 3]
    assert blocks["direct_logits", "rest"]["layer"].values.tolist() == [0, 1, 2, 3]
    assert blocks["head_scores", "induction"]["layer"].values.tolist() == [1, 3]
    assert set(vestigial(stored, draws=1)["layer"].values.tolist()) == {1, 3}
    assert "layers_without_heads" not in stored["token_loss"].attrs


def test_a_weight_of_nan_is_told_apart_from_layers_without_heads(save: Save) -> None:
    run = save("jamba")
    file = run / "step-2/model.safetensors"
    weights = load_file(file)
    weights["model.layers.2.mamba.dt_proj.bias"][0] = torch.nan
    save_file(weights, file, metadata={"format": "pt"})
    given = analysis(run, **LOSSES, **HEADS).model_copy(update={"audit": "off"})
    summary = analyze(given)
    assert set(summary.not_finite) == {2}
    # All of layer 3 but nothing of layers 0 to 2: 4 of 16 heads.
    assert "head_labels/previous_token (4 of 16)" in summary.not_finite[2]
    scores = open_run(given.store)["head_scores"].induction
    assert bool(scores.sel(step=2, layer=1).notnull().all()), "below the broken layer"
    assert bool(scores.sel(step=2, layer=3).isnull().all())
    (sentence,) = [one for one in findings(given.store) if one.startswith("Head scores are not")]
    assert "step 2" in sentence


def test_missing_or_short_parameters_of_a_recurrence_are_named(save: Save) -> None:
    run = save("mamba2")
    file = run / "step-2/model.safetensors"
    weights = load_file(file)
    for parameter in ("A_log", "D", "dt_bias", "conv1d.weight"):
        name = f"backbone.layers.1.mixer.{parameter}"
        kept = {key: tensor for key, tensor in weights.items() if key != name}
        assert len(kept) == len(weights) - 1
        save_file(kept, file, metadata={"format": "pt"})
        (fault,) = audit(str(run)).faults
        assert fault.step == 2 and name in fault.detail
        short = weights[name][:1].clone()
        save_file({**weights, name: short}, file, metadata={"format": "pt"})
        (fault,) = audit(str(run)).faults
        assert fault.step == 2 and f"{name}: {list(short.shape)} for" in fault.detail


@pytest.mark.parametrize(
    ("family", "sentence"),
    [
        ("mamba", "MambaForCausalLM: 4 layers without attention heads"),
        ("jamba", "JambaForCausalLM: 4 layers, of which 1, 3 attend with 4 heads"),
    ],
)
def test_a_draft_has_the_measures_that_the_model_has(
    family: str, sentence: str, save: Save, tmp_path: Path
) -> None:
    machine = Machine(cores=1, memory=2**33, gpus=0)
    made = draft_analysis(str(save(family)), tmp_path / "made.yaml", machine=machine)
    assert made.seen[1].startswith(sentence)
    drafted = load_analysis(made.file)
    estimate = dry_run(drafted)
    assert (estimate.faults, dict(estimate.failed)) == ((), {})
    assert "repeat_loss" in drafted.measures
    heads = {"head_scores", "head_labels", "head_ablation", "copying"} & drafted.measures.keys()
    if family == "jamba":
        assert len(heads) == 4 and made.left_out == {}
    else:
        assert not heads
        assert made.left_out == {"measures of heads": "the model has no attention heads"}


def test_the_command_prints_no_lines_of_missing_kernels(
    save: Save, caplog: pytest.LogCaptureFixture
) -> None:
    run = save("mamba")
    config = run.parent / "a.yaml"
    given = analysis(run, **LOSSES)
    config.write_text(given.model_dump_json())
    with caplog.at_level(logging.WARNING):
        result = CliRunner().invoke(app, ["analyze", str(config), "--serial"])
    assert result.exit_code == 0, result.output
    assert result.output.count("reference PyTorch implementation") <= 2  # once for each kernel
