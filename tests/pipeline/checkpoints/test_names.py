"""Names of checkpoints that trainers and public suites give, and names of other things."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.checkpoints.names import (
    Name,
    companions,
    is_temporary,
    parse_file_name,
    parse_name,
)
from pipeline.checkpoints.numbering import numbered_names
from pipeline.config import RunLayout, validated
from pipeline.errors import InputError

M, B, T = 10**6, 10**9, 10**12


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("step-0", Name(0)),
        ("step512", Name(512)),
        ("step_7", Name(7)),
        ("step=100", Name(100)),
        ("checkpoint-143000", Name(143000)),
        ("checkpoint_1000", Name(1000)),
        ("global_step1000", Name(1000)),
        ("global_step_100", Name(100)),
        ("iter_0001000", Name(1000)),
        ("iter-001000-ckpt", Name(1000)),
        ("iteration_20", Name(20)),
        ("ckpt_358", Name(358)),
        ("ckpt-100", Name(100)),
        ("ckpt100", Name(100)),
        ("ckpt_10k", Name(10_000)),
        ("chck_10M", Name(None, 10 * M)),
        ("chck_1000M", Name(None, B)),
        ("epoch_3", Name(epoch=3)),
        ("epoch-03", Name(epoch=3)),
        ("epoch=3-val_loss=0.12", Name(epoch=3)),
        ("epoch=3-step=100", Name(100, epoch=3)),
        ("epoch=3-step=100.ckpt", Name(100, epoch=3)),
        ("epoch_0_step_100", Name(100, epoch=0)),
        ("step-010000-epoch-01-loss=0.2341", Name(10_000, epoch=1)),
        ("gpt--val_loss=2.16-step=9-consumed_samples=80.0", Name(9)),
        ("checkpoint_3_5000", Name(5000, epoch=3)),
        ("checkpoint_step_1000", Name(1000)),
        ("checkpoint_epoch_3", Name(epoch=3)),
        ("1000", Name(1000, is_bare=True)),
        ("0", Name(0, is_bare=True)),
        ("step1000-unsharded", Name(1000)),
        ("step_1000_hf", Name(1000)),
        ("240b_tokens", Name(None, 240 * B)),
        ("tokens4.2B", Name(None, 4_200_000_000)),
        ("tokens_1000000", Name(None, M)),
        ("100ba", Name(100)),
        ("ba100", Name(100)),
        ("ep0-ba1000", Name(1000, epoch=0)),
        ("ep0-ba1000-rank0", Name(1000, epoch=0)),
        ("3ep", Name(epoch=3)),
        ("step-50K-105b", Name(50_000, 105 * B)),
        ("step-1195k-token-2.5T", Name(1_195_000, 2_500 * B)),
        ("intermediate-step-1431k-3T", Name(1_431_000, 3 * T)),
        ("step-001000-2BT", Name(1000, 2 * B)),
        ("step1000-tokens4B", Name(1000, 4 * B)),
        ("step10-tokens21M", Name(10, 21 * M)),
        ("stage1-step150-tokens1B", Name(150, B, "stage1")),
        ("stage2-ingredient3-step9000-tokens19B", Name(9000, 19 * B, "stage2-ingredient3")),
        ("phase1_checkpoint_055500", Name(55_500, stage="phase1")),
    ],
)
def test_a_checkpoints_name_tells_step_epoch_tokens_and_stage(name, parsed):
    assert parse_name(name) == parsed


@pytest.mark.parametrize(
    "name",
    [
        "tmp-checkpoint-5", "checkpoint-5.tmp", "checkpoint-5-tmp", ".step-5", "step-", "step",
        "step-5 ", "step--5", "Step-5", "step-5/../6", "main", "latest", "checkpoint5", "step-٣",
        "step-5\n", "step-1e3", "step" + "9" * 40, "4k", "32k", "7B", "1.4B", "410m", "runs",
        "2024-05-01", "20240501", "20240501123000", "2024-05-01_12-30", "model-00001-of-00002",
        "model-3", "model_3", "tb_logs", "wandb", "events", "rank0", "rank_0",
        "pytorch_model_fsdp_0", "optimizer_0", "mp_rank_00_model_states", "layer_3", "layer-3",
        "version_0", "v1", "seed-1", "seed1", "run-3", "job_1234", "fold_1", "exp3", "part-00001",
        "epoch", "last", "best", "checkpoint-final", "checkpoint-400-merged", "checkpoint-best",
        "lc-4k-to-32k-step-4000", "ep0-ba1000-rank1", "tokens", "tokenizer", "shard_0", "x1000",
        "-1", "1_000", "1.5", "0x10", "iter", "epoch_3.5", "step-0.5", "step-1.0001k",
        "latest-rank0", "v0-20240501-123000", "lr_0.001", "tokens1.23456789B", "",
    ],
)  # fmt: skip
def test_other_names_are_no_checkpoints(name):
    assert parse_name(name) is None


@given(
    st.integers(0, 10**9 - 1).filter(lambda step: not 19_000_000 <= step < 21_000_000),
    st.sampled_from(
        ["step-", "step", "step_", "step=", "checkpoint-", "checkpoint_", "global_step", "iter_",
         "global_step_", "ckpt_", "ckpt-", "ckpt", ""]
    ),
)  # fmt: skip
def test_every_step_survives_its_spelling(step, spelling):
    assert parse_name(f"{spelling}{step}") == Name(step, is_bare=not spelling)


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("ckpt_1000.pt", Name(1000)),
        ("model_001000.pt", Name(1000)),
        ("epoch=3-step=100.ckpt", Name(100, epoch=3)),
        ("step_010000.pt", Name(10_000)),
        ("checkpoint_5000.pt", Name(5000)),
        ("checkpoint_epoch_3.pth", Name(epoch=3)),
        ("ep0-ba1000-rank0.pt", Name(1000, epoch=0)),
        ("iter-001000-ckpt.pth", Name(1000)),
        ("step_100.safetensors", Name(100)),
        ("1000.ckpt", Name(1000, is_bare=True)),
        # Those that are converted with their whole run:
        ("1000.pth", None), ("1000.pt", None), ("init.pth", None), ("final.pt", None),
        ("full_run_data.pth", None),
        # Other files beside checkpoints:
        ("optim_001000.pt", None), ("meta_001000.json", None), ("model-3.pt", None),
        ("model-00001-of-00002.safetensors", None), ("model.safetensors", None),
        ("ep0-ba1000-rank1.pt", None), ("latest-rank0.pt", None), ("rng_state_0.pth", None),
        ("optimizer.pt", None), ("ckpt.pt", None), ("mp_rank_00_model_states.pt", None),
        ("ckpt_1000.txt", None), ("ckpt_1000", None), ("train_000001.bin", None),
    ],
)  # fmt: skip
def test_a_files_name_tells_the_same(name, parsed):
    assert parse_file_name(name) == parsed


def test_nanochats_description_belongs_to_its_model():
    assert companions("model_001000.pt") == ("meta_001000.json",)
    assert companions("ckpt_1000.pt") == ()


def test_names_of_saves_that_have_not_ended():
    assert all(
        map(is_temporary, ["tmp-checkpoint-5", ".step-5", "ckpt_5.pt.tmp", "iter_5.partial"])
    )
    assert not any(map(is_temporary, ["step-5", ".1000", "1000.tmp", ".cache", "ckpt_5.pt"]))


@pytest.mark.parametrize(
    ("pattern", "name", "parsed"),
    [
        ("my-run-{step}", "my-run-100", Name(100)),
        ("my-run-{step}", "my-run-100-merged", None),
        ("my-run-{step}", "step-100", None),
        ("{epoch}_of_9", "03_of_9", Name(epoch=3)),
        ("{step}at{tokens}", "12at4.2B", Name(12, 4_200_000_000)),
        ("at{tokens}", "at512", Name(None, 512)),
        ("at{tokens}", "at3KT", None),
        ("run-*-{step}", "run-7-final-100", Name(100)),
        ("a.{step}", "ab1", None),
        ("{step}", "٣", None),
        ("s{step}/actor/hf", "s5", Name(5)),
        ("s{step}/actor/hf", "s5/actor/hf", Name(5)),  # a branch's name
        ("runs/{step}", "runs/5", Name(5)),
        ("runs/{step}", "runs", None),
    ],
)
def test_a_given_pattern_replaces_the_known_names(pattern, name, parsed):
    assert parse_name(name, RunLayout(names=pattern)) == parsed


@pytest.mark.parametrize("name", ["x100.pt", "x100"])
def test_a_given_pattern_is_of_files_too(name):
    assert parse_file_name(name + ".pt", RunLayout(names=name.replace("100", "{step}"))) == Name(
        100
    )


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("my-run", "gives no number"),
        ("my-{setp}", "has {setp}, expected one or more of {step}"),
        ("{step}-{step}", "a placeholder twice"),
        ("{step}{epoch}", "where one number ends"),
        ("x*{step}", "where one number ends"),
        ("*a*b*c*d*e{step}", "more than 4 times"),
        ("../{step}", "no path within a run"),
        ("{step}/", "no path within a run"),
        ("x" * 201 + "{step}", "200"),
    ],
)
def test_a_pattern_that_gives_no_step_is_refused(pattern, reason):
    with pytest.raises(InputError, match="names") as caught:
        validated(RunLayout, {"names": pattern}, "here")
    assert reason in str(caught.value)


def numbered(*names: str, tokens_per_step: int | None = None):
    parsed = {name: parse_name(name) for name in names}
    made = numbered_names({name: one for name, one in parsed.items() if one}, tokens_per_step)
    steps = {name: one.step for name, one in made.names.items()}
    return steps, {one.name: one.reason for one in made.left_out}, " ".join(made.notes)


def test_tokens_are_counted_where_nothing_gives_steps():
    steps, left_out, notes = numbered("1b_tokens", "tokens2.5B")
    assert steps == {"1b_tokens": B, "tokens2.5B": 2_500_000_000} and not left_out
    assert "each step is a count of tokens" in notes and "tokens_per_step" in notes


def test_tokens_are_divided_by_those_of_a_step():
    steps, _, notes = numbered("1b_tokens", "tokens2.5B", tokens_per_step=M)
    assert steps == {"1b_tokens": 1000, "tokens2.5B": 2500} and "rounded" not in notes
    steps, _, notes = numbered("1b_tokens", "3b_tokens", tokens_per_step=3 * M)
    assert steps == {"1b_tokens": 333, "3b_tokens": 1000}
    assert "rounded for 1 of 2 names" in notes


def test_epochs_are_counted_where_nothing_gives_steps():
    steps, _, notes = numbered("epoch_1", "epoch_20", tokens_per_step=10)
    assert steps == {"epoch_1": 1, "epoch_20": 20}
    assert "each step is an epoch" in notes and "tokens_per_step is not used" in notes


def test_epochs_and_tokens_beside_steps_are_left_out_with_the_reason():
    steps, left_out, _ = numbered("step-5", "epoch_1", "2b_tokens")
    assert steps == {"step-5": 5}
    assert "an epoch" in left_out["epoch_1"] and "tokens_per_step" in left_out["2b_tokens"]
    steps, left_out, _ = numbered("step-5", "epoch_1", "2b_tokens", tokens_per_step=B)
    assert steps == {"step-5": 5, "2b_tokens": 2} and list(left_out) == ["epoch_1"]


def test_a_number_alone_counts_only_among_its_like():
    assert numbered("1000", "2000")[0] == {"1000": 1000, "2000": 2000}
    steps, left_out, _ = numbered("1000", "step-5")
    assert steps == {"step-5": 5} and "a number alone" in left_out["1000"]


def test_a_count_that_all_names_share_is_no_count_of_tokens():
    made = numbered_names({n: parse_name(n) or Name() for n in ("step-1-7B", "step-2-7B")}, None)
    assert [one.tokens_seen for one in made.names.values()] == [None, None]
    assert "7,000,000,000 tokens" in made.notes[0]


def test_numbers_that_may_count_saves_are_said():
    assert "may count saves" in numbered("ckpt_0", "ckpt_1", "ckpt_2")[2]
    assert numbered("step-0", "step-1", "step-2")[2] == ""
    assert numbered("ckpt_0", "ckpt_100", "ckpt_200")[2] == ""
