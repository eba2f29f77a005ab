import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.report.downsample import kept_indices

PYTHIA = np.array([0, *2 ** np.arange(10), *range(1000, 143001, 1000)])


@settings(max_examples=50)
@given(st.sets(st.integers(0, 10**6), min_size=1, max_size=200), st.integers(2, 80))
def test_at_most_so_many_steps_are_kept_in_order_with_both_ends(steps, at_most):
    steps = np.array(sorted(steps))
    kept = kept_indices(steps, at_most)
    assert len(kept) <= at_most
    assert (np.diff(kept) > 0).all()
    assert kept[0] == 0
    assert kept[-1] == len(steps) - 1
    if len(steps) <= at_most:
        assert len(kept) == len(steps)


@pytest.mark.parametrize("steps", [PYTHIA, np.arange(0, 60_000, 100)])
def test_of_many_steps_nearly_so_many_are_kept(steps):
    assert 50 <= len(kept_indices(steps, 60)) <= 60


def test_kept_steps_are_even_in_the_logarithm():
    # 1023 = 2**10 - 1: of the points evenly spaced in log(1 + step) each one is a saved step.
    steps = np.arange(1024)
    assert steps[kept_indices(steps, 11)].tolist() == [2**i - 1 for i in range(11)]
