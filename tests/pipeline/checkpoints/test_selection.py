import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.checkpoints import Checkpoint
from pipeline.checkpoints.selection import select
from pipeline.config import Analysis, validated
from pipeline.errors import InputError

PYTHIA = [Checkpoint(s, f"run/step{s}") for s in (0, 1, 2, 4, 8, 16, *range(1000, 9000, 1000))]


def steps(**wanted) -> list[int]:
    return [checkpoint.step for checkpoint in select(PYTHIA, **wanted)]


def test_nothing_said_means_all():
    assert select(PYTHIA) == PYTHIA


def test_given_steps_come_in_order():
    assert steps(steps=[1000, 0, 8]) == [0, 8, 1000]


def test_a_step_that_the_run_has_not_is_named_with_the_nearest():
    with pytest.raises(InputError, match="no checkpoint of step 900; the nearest is of step 1000"):
        steps(steps=[0, 900])


def test_every_nth_keeps_the_first_and_the_last():
    assert steps(every=5) == [0, 16, 5000, 8000]
    assert steps(every=1) == [c.step for c in PYTHIA]
    assert steps(every=100) == [0, 8000]


def test_log_spaced_steps_are_the_nearest_to_even_points():
    # log(1 + 8000) = 8.99: points 0, 2.25, 4.49, 6.74, 8.99 are the steps 0, 8.5, 88.5, 845, 8000
    assert steps(log_spaced=5) == [0, 8, 16, 1000, 8000]
    assert math.log1p(8000) / 4 == pytest.approx(2.247, abs=1e-3)


@given(st.sets(st.integers(0, 10**6), min_size=1, max_size=60), st.integers(2, 80))
def test_log_spaced_gives_as_many_as_asked_with_both_ends(found, count):
    listed = [Checkpoint(step, str(step)) for step in sorted(found)]
    chosen = select(listed, log_spaced=count)
    assert len(chosen) == min(count, len(listed))
    assert chosen == sorted(set(chosen))
    assert chosen[0] == listed[0] and chosen[-1] == listed[-1]


@pytest.mark.parametrize("wrong", [{}, {"every": 2, "log_spaced": 3}, {"every": 0}, {"steps": []}])
def test_a_selection_says_one_thing(wrong):
    content = {"checkpoints": "a", "store": "b", "measures": ["weight_norm"], "select": wrong}
    with pytest.raises(InputError, match="select"):
        validated(Analysis, content, "analysis.yaml")
