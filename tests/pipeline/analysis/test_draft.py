"""`draft_analysis` writes files that `--dry-run` finds no fault in, for runs of every kind."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline import Checkpoint, analyze, open_run
from pipeline.analysis.draft import seen as draft_seen
from pipeline.analysis.draft.choose import choose, workers_for
from pipeline.analysis.draft.entries import Asked
from pipeline.analysis.draft.lengths import block_length, compared_tokens
from pipeline.analysis.draft.place import file_for
from pipeline.analysis.draft.seen import Machine, look
from pipeline.analysis.draft.text import as_yaml
from pipeline.analysis.draft.write import Drafted, draft_analysis
from pipeline.analysis.estimate import dry_run
from pipeline.config import Analysis, load_analysis, parse_yaml
from pipeline.errors import InputError
from pipeline.inputs.text import train_tokenizer
from pipeline.training import Training, train
from tests.pipeline.checkpoints.test_foreign import CONFIG, P, authors, lens
from tests.pipeline.families import FAMILIES

MACHINE = Machine(cores=2, memory=16 * 2**30, gpus=0)
TEXT = "Each of the heads attends to an earlier token; some of them copy it. " * 40
ORGANISM = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2}


def save(folder: Path, family: str, steps: tuple[int, ...] = (0, 1, 2), **changes: Any) -> Path:
    """Save random models of a family as `step-N`."""
    for step in steps:
        torch.manual_seed(step)
        model = AutoModelForCausalLM.from_config(FAMILIES[family](**changes))
        model.save_pretrained(folder / f"step-{step}")
    return folder


def organism(folder: Path, task: Mapping[str, Any], **changes: Any) -> Path:
    """Train an organism for four steps."""
    settings = {
        "name": "tiny", "output": str(folder), "task": dict(task), "steps": 4, "threads": 1,
        "model": ORGANISM, "optimizer": {"learning_rate": 1e-3}, "batch_size": 4,
    }  # fmt: skip
    return train(Training.model_validate(settings | changes))


def drafted(run: Path | str, folder: Path, **given: Any) -> tuple[Drafted, Analysis]:
    """Write an analysis of a run, and check it as `--dry-run` does."""
    made = draft_analysis(str(run), folder / "made.yaml", machine=MACHINE, **given)
    analysis = load_analysis(made.file)
    estimate = dry_run(analysis)
    assert estimate.faults == () and estimate.failed == {}
    return made, analysis


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("gpt2", {"n_positions": 16}),
        ("llama", {"max_position_embeddings": 32}),
        ("gpt_neox", {"max_position_embeddings": 1024}),
        ("gemma2", {"max_position_embeddings": 40}),
        ("mistral", {"bos_token_id": None}),
        ("opt", {}),  # no circuit matrices can be read
        ("bloom", {}),  # any length
        ("gpt_oss", {}),
        ("organism", {"num_hidden_layers": 0}),
        ("organism_smeared", {"num_hidden_layers": 1, "max_position_embeddings": 4}),
    ],
)
def test_a_file_for_each_family_has_no_fault(family: str, changes: dict, tmp_path: Path) -> None:
    made, analysis = drafted(save(tmp_path / "run", family, **changes), tmp_path)
    context = changes.get("n_positions", changes.get("max_position_embeddings", 64))
    for spec in analysis.inputs.values():
        bos = family not in ("mistral", "organism_smeared")
        assert family == "bloom" or 2 * spec.block_length + bos <= context
    assert ("copying" in made.left_out) == (family in ("opt", "bloom", "gpt_oss"))
    assert ("composition" in analysis.measures) == (
        "copying" not in made.left_out and changes.get("num_hidden_layers", 2) > 1
    )


@pytest.mark.parametrize(("family", "context"), [("gpt2", 16), ("organism", 2), ("llama", 600)])
def test_a_file_computes_finite_numbers(family: str, context: int, tmp_path: Path) -> None:
    key = "n_positions" if family == "gpt2" else "max_position_embeddings"
    run = save(tmp_path / "run", family, (0, 3), **{key: context, "vocab_size": 300})
    _, analysis = drafted(run, tmp_path)
    summary = analyze(analysis)
    assert summary.worked and list(summary.computed) == [0, 3]
    stored = open_run(analysis.store)
    assert set(stored.children) == set(analysis.measures)
    for name in analysis.measures:
        dataset = stored[name].to_dataset()
        assert any(np.isfinite(dataset[variable]).any() for variable in dataset.data_vars), name
    if context == 600:  # the tokens of the paper are reached, on blocks of 255
        assert analysis.measures["token_loss.long_repeats"] == {
            "early_token": 50, "late_token": 500,
        }  # fmt: skip


@pytest.mark.parametrize(
    ("length", "tokens"),
    [
        (512, (50, 500)),
        (501, (50, 500)),
        (256, (25, 250)),  # half of 512
        (64, (6, 62)),  # 64 * 50 / 512 = 6.25; 64 * 500 / 512 = 62.5
        (3, (1, 2)),
        (2, None),
    ],
)
def test_compared_tokens_are_shares_of_the_length(length: int, tokens: Any) -> None:
    assert compared_tokens(length) == tokens


def test_blocks_fit_context_and_vocabulary() -> None:
    assert block_length(25, None, 1000, bos=True) == 25
    assert block_length(25, 51, 1000, bos=True) == 25  # 1 + 2 x 25
    assert block_length(25, 50, 1000, bos=True) == 24
    assert block_length(25, 50, 1000, bos=False) == 25
    assert block_length(25, 1000, 9, bos=True) == 9
    assert block_length(25, 4, 1000, bos=True) == 0  # a block of one token is none


def with_tokenizer(run: Path) -> Path:
    """Save a tokenizer with each checkpoint, as a Trainer does."""
    tokenizer = train_tokenizer([TEXT], 290)
    for checkpoint in run.iterdir():
        tokenizer.save_pretrained(checkpoint)
    return run


def test_a_text_is_tokenised_with_the_runs_tokenizer(tmp_path: Path) -> None:
    run = with_tokenizer(save(tmp_path / "run", "gpt2", vocab_size=300, n_positions=32))
    (tmp_path / "prose.txt").write_text(TEXT)
    made, analysis = drafted(run, tmp_path, text=str(tmp_path / "prose.txt"))
    n_tokens = len(train_tokenizer([TEXT], 290)(TEXT)["input_ids"])
    spec = analysis.inputs["text"]
    assert (spec.sequences, spec.length) == (min(64, n_tokens // 32), 32)
    assert analysis.measures["token_loss"] == {"early_token": 3, "late_token": 31}
    assert f"{n_tokens:,} tokens" in Path(made.file).read_text()
    assert made.guessed == (
        "the run does not say how many tokens it has seen: series have steps alone",
    )


def test_a_text_without_tokenizer_is_a_sentence(tmp_path: Path) -> None:
    run = save(tmp_path / "run", "gpt2")
    (tmp_path / "prose.txt").write_text(TEXT)
    with pytest.raises(InputError, match="cannot be tokenised, there is no tokenizer beside"):
        drafted(run, tmp_path, text=str(tmp_path / "prose.txt"))
    assert not (tmp_path / "made.yaml").exists()
    train_tokenizer([TEXT], 290).save_pretrained(tmp_path / "tokenizer")
    given = {"text": str(tmp_path / "prose.txt"), "tokenizer": str(tmp_path / "tokenizer")}
    with pytest.raises(InputError, match="290 ids, the model 96 rows"):  # another model's
        drafted(run, tmp_path, **given)
    fitting = save(tmp_path / "fitting", "gpt2", vocab_size=290)
    _, analysis = drafted(fitting, tmp_path, **given)
    assert analysis.inputs["text"].tokenizer == str(tmp_path / "tokenizer")


def test_the_block_for_a_text_runs_when_it_is_switched_on(tmp_path: Path) -> None:
    run = with_tokenizer(save(tmp_path / "run", "gpt2", vocab_size=300, n_positions=32))
    made, _ = drafted(run, tmp_path)
    lines = Path(made.file).read_text()
    switched = lines.replace("# text: {", "text: {").replace("# token_loss: {", "token_loss: {")
    (tmp_path / "on.yaml").write_text(switched)
    (tmp_path / "prose.txt").write_text(TEXT * 10)
    analysis = load_analysis(tmp_path / "on.yaml")
    assert {"text"} < analysis.inputs.keys() and {"token_loss"} < analysis.measures.keys()
    assert dry_run(analysis).faults == ()


@pytest.mark.slow
def test_organisms_get_the_inputs_of_their_task(tmp_path: Path) -> None:
    (tmp_path / "prose.txt").write_text("".join(f"{n} squared is {n * n}. " for n in range(900)))
    tasks = {
        "repeats": {"kind": "repeated_substrings", "vocabulary": 20, "context": 20, "shortest": 3,
                    "longest": 9},
        "text": {"kind": "text", "path": str(tmp_path / "prose.txt"), "vocabulary": 260,
                 "context": 16},
        "addition": {"kind": "modular_arithmetic", "p": 7, "operation": "add"},
        "composition": {"kind": "modular_arithmetic", "p": 6, "operation": "compose"},
    }  # fmt: skip
    one_layer = {"num_hidden_layers": 1, "intermediate_size": 32, "layer_norm": False}
    found = {}
    for name, task in tasks.items():
        is_table = task["kind"] == "modular_arithmetic"
        changes = {"model": ORGANISM | one_layer, "batch_size": None} if is_table else {}
        run = organism(tmp_path / name, task, **changes)
        file = tmp_path / f"{name}.yaml"
        made = draft_analysis(str(run), file, machine=MACHINE)
        found[name] = load_analysis(file)
        summary = analyze(found[name])
        assert summary.worked, (name, summary.failed)
        assert ("guessed" in str(made.guessed)) is False
    assert found["repeats"].inputs["text"].kind == "held_out"
    assert found["repeats"].inputs["repeated"].block_length == 10  # half of 20, without BOS
    assert found["repeats"].measures["token_loss"] == {"early_token": 1, "late_token": 19}
    assert found["text"].inputs["text"].kind == "held_out"
    assert list(found["addition"].inputs) == list(found["composition"].inputs) == ["table"]
    assert {"modular_addition", "restricted_loss"} <= found["addition"].measures.keys()
    assert "permutation_characters" in found["composition"].measures
    assert "restricted_loss" not in found["composition"].measures  # there are no waves


def test_pth_files_of_a_grokking_run(tmp_path: Path) -> None:
    file = tmp_path / "full_run_data.pth"
    torch.save({"config": CONFIG, "epochs": [0], "state_dicts": [authors(0)]}, file)
    made, analysis = drafted(file, tmp_path)
    assert "modular_addition" in analysis.measures and list(analysis.inputs) == ["table"]
    assert made.left_out == {}
    assert file_for(str(file)) == Path("full_run_data.yaml")


def test_what_pth_files_lack_is_asked_for(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    torch.save({"model": lens(0), "epoch": 5}, run / "5.pth")
    with pytest.raises(InputError, match="--model NAME=VALUE"):
        drafted(run, tmp_path)
    model = {"act_fn": "relu", "normalization_type": None}
    made, analysis = drafted(run, tmp_path, model=model)
    assert analysis.model == model and list(analysis.measures) == ["weight_norm"]
    # The table's operation is in no file: it is written as a comment, for the person to complete.
    written = Path(made.file).read_text()
    assert f"# table: {{kind: table, p: {P}, operation: add, train_share: 0.3" in written
    switched = written.replace("# inputs:", "inputs:").replace("# table:", "table:")
    (tmp_path / "on.yaml").write_text(switched.replace("# modular_addition:", "modular_addition:"))
    on = load_analysis(tmp_path / "on.yaml")
    assert "modular_addition" in on.measures and dry_run(on).faults == ()


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "made.yaml").write_text("mine")
    for present in ("made.yaml", "dangling.yaml"):
        (tmp_path / "dangling.yaml").unlink(missing_ok=True)
        (tmp_path / "dangling.yaml").symlink_to(tmp_path / "nowhere")
        with pytest.raises(InputError, match="exists already, and is not overwritten"):
            draft_analysis(str(tmp_path / "absent"), tmp_path / present)
    assert (tmp_path / "made.yaml").read_text() == "mine"
    with pytest.raises(InputError, match="is no folder"):
        draft_analysis(str(tmp_path / "absent"), tmp_path / "no" / "made.yaml")
    with pytest.raises(InputError, match="absent"):
        draft_analysis(str(tmp_path / "absent"), tmp_path / "other.yaml")


def test_paths_are_relative_to_the_file(
    tmp_path: Path, make_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(name="a run: é, #1")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    draft_analysis("a run: é, #1", Path("deep/er/made.yaml"), "stores/s.zarr", machine=MACHINE)
    said = parse_yaml(Path("deep/er/made.yaml").read_text(), "made")
    assert said["checkpoints"] == "../../a run: é, #1"
    assert said["store"] == "../../stores/s.zarr"
    analysis = load_analysis("deep/er/made.yaml")
    assert analysis.checkpoints == str(tmp_path / "a run: é, #1")
    assert dry_run(analysis).faults == ()
    assert file_for("a run: é, #1") == Path("a-run-é-1.yaml")
    assert file_for("hf://owner/name@stage1-*") == Path("name.yaml")
    assert file_for("s3://bucket/runs/mine/") == Path("mine.yaml")
    assert file_for(".") == Path(f"{tmp_path.name}.yaml")


def test_comments_hold_no_line_of_their_own(tmp_path: Path, make_run: Any) -> None:
    """A reason with a line break stays a comment."""
    seen = look(seed(make_run()))
    chosen = choose(seen, Asked("run", "s.zarr"), MACHINE)
    hostile = replace(chosen, left_out={"x\nstore: /etc": "because\nworkers: 3"})
    values = parse_yaml(as_yaml(hostile, ["a\nb: c"]), "made")
    assert values == parse_yaml(as_yaml(chosen, []), "made") and values["store"] == "s.zarr"


def seed(run: Path) -> Analysis:
    return Analysis.model_validate(
        {"checkpoints": str(run), "store": f"{run}.zarr", "measures": {"weight_norm": {}}}
    )


def test_many_checkpoints_are_selected(make_run: Any) -> None:
    seen = look(seed(make_run()))
    many = tuple(Checkpoint(step, "", 2 * step) for step in range(300))
    surveyed = replace(seen.surveyed, checkpoints=many)
    large = replace(seen.facts, n_layers=48, n_heads=32)  # 1,536 heads
    large_seen = replace(seen, surveyed=surveyed, facts=large)
    values = choose(large_seen, Asked("run", "s.zarr"), MACHINE).values()
    assert values["select"] == {"log_spaced": 200}
    # 1,537 passes each: 2,000 allow one checkpoint, and a selection has at least two.
    assert values["measures"]["head_ablation"]["select"] == {"log_spaced": 2}
    # 6 x 4 x 1,536^2 = 56.6 MB each: 2^30 bytes hold 18 of them.
    assert values["measures"]["composition"] == {"select": {"log_spaced": 18}}


@pytest.mark.parametrize(
    ("machine", "n_checkpoints", "n_numbers", "expected"),
    [
        (Machine(2, 16 * 2**30, 0), 70, 10**5, (2, 1, None)),
        (Machine(64, 256 * 2**30, 0), 3, 10**5, (3, 1, None)),  # no more than checkpoints
        (Machine(16, 32 * 2**30, 0), 70, 10**9, (3, 5, None)),  # 7.45 + 2 GiB each
        (Machine(4, 2**30, 0), 70, 10**9, (1, 4, None)),
        (Machine(32, 2**40, 8), 154, 10**9, (8, 1, "cuda")),
    ],
)
def test_workers_fit_the_machine(
    machine: Machine, n_checkpoints: int, n_numbers: int, expected: tuple
) -> None:
    value = workers_for(machine, n_checkpoints, n_numbers).value
    assert (value["count"], value["threads"], value.get("device")) == expected


@pytest.mark.parametrize(("said", "limit"), [("max\n", None), ("1000000\n", 10**6), (None, None)])
def test_memory_is_that_of_a_container(
    said: str | None, limit: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if said is not None:
        (tmp_path / "memory.max").write_text(said)
    monkeypatch.setattr(draft_seen, "_LIMIT", tmp_path / "memory.max")
    installed = psutil.virtual_memory().total
    assert Machine.here().memory == pytest.approx(limit or installed, rel=1e-3)


def test_damaged_checkpoints_are_named(tmp_path: Path, make_run: Any) -> None:
    run = make_run(steps=(0, 1, 2, 4))
    other = run / "step-2" / "model.safetensors"
    other.write_bytes((run / "step-1" / "model.safetensors").read_bytes())
    made, _ = drafted(run, tmp_path)
    assert made.masked.keys() == {1, 2}  # copies of each other
    assert "Step 2 is left out by the audit" in Path(made.file).read_text()
    os.truncate(run / "step-0" / "model.safetensors", 0)
    again = draft_analysis(str(run), tmp_path / "again.yaml", machine=MACHINE)
    assert again.masked.keys() | again.failed.keys() | {
        int(one.name.rpartition("-")[2]) for one in again.not_listed
    } == {0, 1, 2}


def test_another_runs_store_is_refused(tmp_path: Path, make_run: Any) -> None:
    run, other = make_run(), make_run(name="other", hidden_size=8)
    analyze(seed(other))
    with pytest.raises(InputError, match="store"):
        draft_analysis(str(run), tmp_path / "made.yaml", f"{other}.zarr", machine=MACHINE)
    assert not (tmp_path / "made.yaml").exists()
