import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.auditing.schedule import missing_steps
from pipeline.training.schedule import Schedule

PYTHIA = [0, *(2**k for k in range(10)), *range(1000, 143001, 1000)]
STANFORD = [
    0, *range(10, 100, 10), *range(100, 2000, 50), *range(2000, 20000, 100),
    *range(20000, 400001, 1000),
]  # fmt: skip


@pytest.mark.parametrize(
    "steps",
    [
        PYTHIA,
        STANFORD,
        [],
        [0],
        [0, 5],
        [7, 1000, 1003],
        list(range(0, 5000, 500)),
        [*range(0, 5000, 500), 4937],
        [0, *range(500, 3001, 500), 3017],
        list(range(100, 2100, 100)),
        [0, 1, 2, 4, 8, 16, 24, 32, 40, 48],
        [0, *(2**k for k in range(10)), *range(576, 2000, 64)],
        [0, *range(10, 101, 10), *range(200, 1001, 100), *range(1010, 1101, 10)],
        [0, *range(100, 501, 100), *range(510, 601, 10), *range(700, 1001, 100)],
        [round(1.3**k) for k in range(5, 40)],
        [0, 1, 3, 4, 6, 7, 9, 10, 12, 13],
        [0, 3, 10, 30, 100, 300, 1000, 3000],
    ],
)
def test_a_whole_schedule_has_no_missing_step(steps):
    assert missing_steps(steps) == []


@given(st.integers(0, 2000), st.integers(1, 400), st.integers(1, 4000))
def test_the_schedules_of_our_own_training_have_no_missing_step(log_until, every, last):
    assert missing_steps(Schedule(log_until=log_until, every=every).steps(last)) == []


@pytest.mark.parametrize("gone", [2, 16, 256, 2000, 3000, 77000, 142000])
def test_one_missing_step_is_found(gone):
    assert missing_steps([step for step in PYTHIA if step != gone]) == [gone]


@pytest.mark.parametrize(
    "gone",
    [[5000, 6000], [5000, 7000], [2000, 80000, 83000], [64, 90000], [2000, 3000], [141000, 142000]],
)
def test_several_missing_steps_are_found(gone):
    assert missing_steps([step for step in PYTHIA if step not in gone]) == gone


@pytest.mark.parametrize("seed", range(20))
def test_scattered_holes_are_found_in_a_long_run_and_nothing_else(seed):
    steps = list(range(0, 60000, 250))
    gone = sorted(random.Random(seed).sample(steps[1:-1], 6))
    found = missing_steps([step for step in steps if step not in gone])
    assert set(found) <= set(gone)
    lonely = [g for g in gone if not any(0 < abs(g - other) <= 1000 for other in gone)]
    lonely = [g for g in lonely if 250 < g < 60000 - 500]
    assert set(lonely) <= set(found)
