"""Commands about runs, without the flow: audit, presets and estimates."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.flows.test_cli import answer, ontogeny, refused

MakeAnalysis = Callable[..., Any]


@pytest.fixture
def disguised(organisms: Path, tmp_path: Path) -> Path:
    """Copy the run, with the weights of the last step in step 8."""
    run = tmp_path / "run"
    shutil.copytree(organisms / "run", run)
    shutil.copy(run / "step-256/model.safetensors", run / "step-8/model.safetensors")
    return run


def test_an_audit_ends_with_exit_code_1_where_it_finds_faults(disguised: Path) -> None:
    result = ontogeny("audit", disguised, "--json")
    assert result.exit_code == 1
    content = json.loads(result.stdout)
    assert content["uri"] == str(disguised) and content["checkpoints"] == 10
    assert [(f["step"], f["kind"]) for f in content["faults"]] == [(8, "final-weights")]
    table = ontogeny("audit", disguised)
    assert table.exit_code == 1
    assert "final-weights" in table.stdout and "1 faults at 1 steps: 8" in table.stdout


def test_an_audit_of_a_clean_run_ends_with_exit_code_0(organisms: Path) -> None:
    assert answer("audit", organisms / "run", "--json")["faults"] == []
    assert answer("audit", organisms / "run", "--deep", "--json")["faults"] == []
    assert "no such folder" in refused("audit", organisms / "nowhere")


def test_tokens_seen_are_listed_where_the_step_size_is_given(organisms: Path) -> None:
    told = answer("checkpoints", organisms / "run", "--tokens-per-step", "512", "--json")
    assert [one["tokens_seen"] for one in told["checkpoints"][:4]] == [0, 512, 1024, 2048]
    told = answer("checkpoints", organisms / "run", "--json")
    assert told["checkpoints"][1]["tokens_seen"] is None and told["left_out"] == []


def test_names_a_config_and_links_are_given_as_options(organisms: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for step in (0, 8, 16):
        shutil.copytree(organisms / f"run/step-{step}", run / f"my-{step}-x")
        shutil.move(run / f"my-{step}-x/config.json", tmp_path / "mine.json")
    assert 'as in `names: "my-{step}-x"`' in refused("checkpoints", run)
    options = ("--names", "my-{step}-x", "--config", tmp_path / "mine.json")
    told = answer("checkpoints", run, *options, "--json")
    assert [one["step"] for one in told["checkpoints"]] == [0, 8, 16]
    assert told["notes"] == [f"3 checkpoints without a config.json use {tmp_path}/mine.json"]
    assert answer("audit", run, *options, "--json")["notes"] == told["notes"]
    assert "expected one or more of {step}" in refused("audit", run, "--names", "my")
    link = tmp_path / "links/step-0"
    link.parent.mkdir()
    link.symlink_to(organisms / "run/step-0")
    (one,) = answer("checkpoints", link.parent, "--follow-links", "--json")["checkpoints"]
    assert one["uri"] == str((organisms / "run/step-0").resolve())


def test_init_writes_the_options_of_a_run_into_the_file(organisms: Path, tmp_path: Path) -> None:
    for step in (0, 8):
        shutil.copytree(organisms / f"run/step-{step}", tmp_path / f"run/my-{step}")
        (tmp_path / f"run/my-{step}/config.json").rename(tmp_path / "mine.json")
    file = tmp_path / "a.yaml"
    told = answer("init", tmp_path / "run", "--output", file, "--names", "my-{step}",
                  "--config", tmp_path / "mine.json", "--json")  # fmt: skip
    assert told["analysis"]["names"] == "my-{step}"
    assert told["analysis"]["config"] == str(tmp_path / "mine.json")
    assert "without a config.json" in told["notes"][0]
    assert answer("analyze", file, "--dry-run", "--json")["checkpoints"] == 2


def test_every_command_says_what_it_leaves_out(
    make_analysis: MakeAnalysis, organisms: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(organisms / "run", run)
    for name in ("my-run-300", "checkpoint-final"):
        shutil.copytree(run / "step-8", run / name)
    (run / "checkpoint-400").mkdir()
    (run / "checkpoint-400/config.json").write_text("{}")
    config = tmp_path / "analysis.yaml"
    analysis = make_analysis(checkpoints=str(run), measures=["weight_norm"], inputs={})
    config.write_text(json.dumps(analysis.model_dump(mode="json")))
    expected = {
        ("checkpoint-400", "unfinished"),
        ("checkpoint-final", "name not understood"),
        ("my-run-300", "name not understood"),
    }
    for command in (
        ("checkpoints", run),
        ("audit", run),
        ("analyze", config, "--dry-run"),
        ("analyze", config, "--serial"),
    ):
        said = ontogeny(*command)
        assert said.exit_code == 0, said.output
        assert "name not understood: 2 (checkpoint-final, my-run-300)" in said.output
        assert "unfinished: 1 (checkpoint-400: no weights yet; changed " in said.output
        told = answer(*command, "--json")["left_out"]
        assert {(one["name"], one["kind"]) for one in told} == expected
    assert (
        "no fault found; left out: 1 unfinished, 2 of other names" in ontogeny("audit", run).stdout
    )


def test_ordinary_files_of_a_run_are_not_mentioned(organisms: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(organisms / "run", run)
    shutil.copy(run / "step-8/model.safetensors", run)
    for name in ("README.md", "config.json", "training_args.bin", "tokenizer.json", ".gitignore"):
        (run / name).write_text("{}")
    for name in ("runs", "logs", ".git", "wandb"):
        (run / name).mkdir()
        (run / name / "events.1").write_text("x")
    said = ontogeny("checkpoints", run)
    assert said.exit_code == 0 and said.stderr == ""
    assert ontogeny("audit", run).stdout.endswith("10 checkpoints, no fault found\n")


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(
    make_analysis: MakeAnalysis, disguised: Path, tmp_path: Path
) -> None:
    analysis = make_analysis(checkpoints=str(disguised), measures=["head_scores", "weight_norm"])
    config = tmp_path / "analysis.yaml"
    config.write_text(json.dumps(analysis.model_dump(mode="json")))
    estimate = answer("analyze", config, "--dry-run", "--json")
    assert (estimate["checkpoints"], estimate["masked"]) == (9, 1)
    assert (estimate["forward_passes"], estimate["bytes_to_fetch"]) == (9, 0)
    said = ontogeny("analyze", config, "--dry-run").stdout
    assert "9 (1 masked by the audit)" in said and "hours of computing" in said
    assert not Path(analysis.store).exists()


def test_a_preset_is_an_analysis_by_name(
    tmp_path: Path, organisms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "runs/induction: there is no such folder" in refused(
        "analyze", "--preset", "induction", "--dry-run"
    )
    assert "did you mean 'pythia-70m'?" in refused("analyze", "--preset", "pythia-70")
    assert "give a YAML file, or --preset" in refused("analyze")
