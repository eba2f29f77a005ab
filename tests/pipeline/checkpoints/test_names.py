import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.checkpoints.names import Name, parse_name


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("step-0", Name(0)),
        ("step512", Name(512)),
        ("step_7", Name(7)),
        ("checkpoint-143000", Name(143000)),
        ("global_step1000", Name(1000)),
        ("step1000-tokens4B", Name(1000, 4 * 10**9)),
        ("step10-tokens21M", Name(10, 21 * 10**6)),
        ("stage1-step150-tokens1B", Name(150, 10**9, "stage1")),
        ("stage2-ingredient3-step9000-tokens19B", Name(9000, 19 * 10**9, "stage2-ingredient3")),
    ],
)
def test_a_checkpoints_name_tells_step_tokens_and_stage(name, parsed):
    assert parse_name(name) == parsed


@pytest.mark.parametrize(
    "name",
    [
        "tmp-checkpoint-5", "checkpoint-5.tmp", "checkpoint-5-tmp", ".step-5", "step-", "step",
        "step-5 ", "step--5", "Step-5", "step-5/../6", "main", "latest", "checkpoint5", "step-٣",
        "step-5\n", "step-1e3", "step" + "9" * 40,
    ],
)  # fmt: skip
def test_other_names_are_no_checkpoints(name):
    assert parse_name(name) is None


@given(st.integers(0, 10**15 - 1), st.sampled_from(["step-", "step", "checkpoint-", "global_step"]))
def test_every_step_survives_its_spelling(step, spelling):
    assert parse_name(f"{spelling}{step}") == Name(step)
