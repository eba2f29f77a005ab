"""Checkpoints with NaN or infinite weights, and finite ones whose results are not finite."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import pipeline.analysis.reading
from flows.cli import app
from pipeline import Analysis, Summary, analyze, open_run
from pipeline.analysis.estimate import dry_run
from pipeline.checkpoints.formats.base import LocalParts
from pipeline.models.organism import OrganismForCausalLM
from pipeline.store import Store
from tests.pipeline.modular_organisms import config

BROKEN = "model.layers.1.self_attn.q_proj.weight"
WHY = f"non-finite: NaN or infinite: {BROKEN} (2 of 256 numbers)"


@pytest.fixture
def run(make_run: Callable[..., Path]) -> Path:
    """Make steps 1 to 4: a matrix of 3 has a NaN and an infinity, one of 4 is too large."""
    folder = make_run(steps=(1, 2, 3, 4), num_hidden_layers=2)
    wrong = torch.tensor([torch.nan, torch.inf])
    edited(folder / "step-3", BROKEN, lambda matrix: matrix[0, :2].copy_(wrong))
    edited(folder / "step-4", "lm_head.weight", lambda matrix: matrix.mul_(3e38))
    np.save(folder.parent / "ids.npy", np.random.default_rng(0).integers(0, 40, (4, 16)))
    return folder


def edited(folder: Path, name: str, edit: Callable[[torch.Tensor], Any]) -> None:
    model = OrganismForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        edit(model.get_parameter(name))
    model.save_pretrained(folder)


def analysis(run: Path, **changes: Any) -> Analysis:
    return Analysis.model_validate(content(run) | changes)


def content(run: Path) -> dict[str, Any]:
    return {
        "checkpoints": str(run),
        "store": str(run.parent / "store.zarr"),
        "inputs": {"text": {"kind": "array", "path": str(run.parent / "ids.npy"),
                            "sequences": 4, "length": 16}},
        "measures": {"token_loss": {"early_token": 2, "late_token": 9}, "weight_norm": {},
                     "composition": {}},
    }  # fmt: skip


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the names of the folders whose weights are read."""
    seen: list[str] = []
    real = pipeline.analysis.reading.read_weights

    def reading(parts: LocalParts, config: dict[str, Any]) -> Any:
        seen.append(parts.files["model.safetensors"].parent.name)
        return real(parts, config)

    monkeypatch.setattr(pipeline.analysis.reading, "read_weights", reading)
    return seen


def test_non_finite_weights_are_left_out_and_named(run: Path, reads: list[str]) -> None:
    summary = analyze(analysis(run))
    assert (summary.computed, summary.failed) == ([1, 2, 4], {})
    assert summary.masked == {3: WHY}
    assert not summary.worked and "masked by the audit: [3]" in summary.sentence()
    tree = open_run(summary.store)
    assert tree.attrs["masked"] == {3: WHY}
    assert all(tree[name].step.values.tolist() == [1, 2, 4] for name in tree.children)
    (fault,) = Store(summary.store).version().verdict["faults"]
    assert (fault["step"], fault["kind"]) == (3, "non-finite") and BROKEN in fault["detail"]

    del reads[:]
    again = analyze(analysis(run))
    assert (again.masked, again.complete, again.worked, reads) == ({3: WHY}, 3, False, [])
    estimate = dry_run(analysis(run))
    assert estimate.masked_steps == {3: WHY}
    assert ("step 3", f"is left out: {WHY}") in estimate.rows()


def test_a_deep_audit_and_a_reading_say_the_same(run: Path) -> None:
    deep = analyze(analysis(run, audit="deep", store=str(run.parent / "deep.zarr")))
    assert deep.masked == analyze(analysis(run)).masked == {3: WHY}
    assert not deep.worked


def test_a_file_that_was_replaced_is_computed_and_shown(run: Path, tmp_path: Path) -> None:
    good = (run / "step-2" / "model.safetensors").read_bytes()
    bad = (run / "step-3" / "model.safetensors").read_bytes()
    (run / "step-2" / "model.safetensors").write_bytes(bad)
    assert analyze(analysis(run, audit="metadata")).computed == [1, 4]
    (run / "step-2" / "model.safetensors").write_bytes(good)
    summary = analyze(analysis(run))
    assert (summary.computed, summary.masked) == ([2], {3: WHY})
    # Rows that are there are hidden once the weights of their step are not finite any more.
    (run / "step-2" / "model.safetensors").write_bytes(bad[:-4] + b"\0\0\0\0")
    summary = analyze(analysis(run))
    assert sorted(summary.masked) == [2, 3]
    assert open_run(summary.store)["token_loss"].step.values.tolist() == [1, 4]


def test_without_an_audit_the_rows_are_nan_and_that_is_said(run: Path, reads: list[str]) -> None:
    summary = analyze(analysis(run, audit="off"))
    assert (summary.computed, summary.masked, summary.worked) == ([1, 2, 3, 4], {}, False)
    assert f"weights NaN or infinite: {BROKEN} (2 of 256 numbers)" in summary.not_finite[3]
    assert "token_loss/loss (60 of 60)" in summary.not_finite[3]
    tree = open_run(summary.store)
    assert tree.attrs["not_finite"] == summary.not_finite
    assert np.isnan(tree["token_loss"]["mean"].sel(step=3))
    del reads[:]
    assert analyze(analysis(run, audit="off")).not_finite == summary.not_finite
    assert reads == []
    # With an audit those rows are hidden, though nothing is read.
    assert analyze(analysis(run)).masked == {3: WHY}
    assert reads == []
    assert open_run(summary.store)["token_loss"].step.values.tolist() == [1, 2, 4]


def test_results_that_overflow_are_nan_and_named(run: Path) -> None:
    summary = analyze(analysis(run))
    assert summary.not_finite.keys() == {4}
    said = summary.not_finite[4]
    assert "token_loss/loss (60 of 60)" in said and "token_loss/mean (1 of 1)" in said
    # Composition has NaN at every checkpoint by its definition, and the norms are finite.
    assert "composition" not in said and "weight_norm" not in said
    tree = open_run(summary.store)
    assert not np.isfinite(tree["token_loss"]["mean"].sel(step=4))
    assert np.isfinite(tree["token_loss"]["mean"].sel(step=[1, 2])).all()
    assert np.isfinite(tree["weight_norm"].sum_of_squares).all()
    assert "not finite: [4]" in summary.sentence()
    assert f"not finite at step 4: {said}" in summary.exceptions()
    assert analyze(analysis(run)).not_finite == summary.not_finite


def test_the_command_says_it_and_does_not_exit_with_0(run: Path) -> None:
    yaml = run.parent / "a.yaml"
    yaml.write_text(json.dumps(content(run)))
    said = CliRunner().invoke(app, ["analyze", str(yaml), "--serial"])
    assert said.exit_code == 1
    assert f"step 3 is left out: {WHY}" in said.stdout
    assert "not finite at step 4: token_loss/loss" in said.stdout
    assert "masked by the audit: [3]; not finite: [4]" in said.stderr
    told = CliRunner().invoke(app, ["analyze", str(yaml), "--serial", "--json"])
    summary = json.loads(told.stdout)
    assert told.exit_code == 1
    assert (summary["masked"], list(summary["not_finite"])) == ({"3": WHY}, ["4"])


def test_the_reference_is_of_the_last_finite_checkpoint(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        torch.manual_seed(step)
        model = OrganismForCausalLM(config(p=7))
        if step == 3:
            model.lm_head.weight.data[:] = torch.nan
        model.save_pretrained(tmp_path / "run" / f"step-{step}")

    def summary(**changes: Any) -> Summary:
        table = {"kind": "table", "p": 7, "operation": "add", "train_share": 0.4, "split_seed": 0}
        given = {
            "checkpoints": str(tmp_path / "run"),
            "store": str(tmp_path / "store.zarr"),
            "inputs": {"table": table},
            "measures": ["modular_addition", "weight_norm"],
        }
        return analyze(Analysis.model_validate(given | changes))

    first = summary()
    assert (first.computed, first.failed, list(first.masked)) == ([1, 2], {}, [3])
    assert summary().complete == 2
    # Without an audit the last checkpoint gives the reference: it cannot, and is named.
    unaudited = summary(audit="off", store=str(tmp_path / "unaudited.zarr"))
    assert "needs it as its reference, and its numbers are not finite" in unaudited.failed[3]
    tree = open_run(str(tmp_path / "unaudited.zarr"))
    assert list(tree.children) == ["weight_norm"]
