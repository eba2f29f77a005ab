"""The in-context score since its jump: means and deviations by hand, runs without a jump."""

import numpy as np
import pytest

from pipeline.aggregate.score_spread import scores_since
from pipeline.errors import InputError
from tests.pipeline.aggregate.losses import as_group

STEPS = np.array([0, 10, 20, 30])


def group_of(scores: list[float], digest: str = "a" * 64):
    """Return losses of which the score (token 6 less token 2) is as given."""
    losses = np.zeros((4, 3, 8))
    losses[:, :, 5] = np.array(scores)[:, None]
    return as_group(losses, steps=STEPS, digest=digest)


def test_means_are_over_the_checkpoints_since_the_jump() -> None:
    groups = {
        "a": group_of([0, -5, -1, -2]),
        "b": group_of([0, -1, -1, -4]),
        "without": group_of([0, 0, 0, 0]),
    }
    found = scores_since(groups, {"a": 15.0, "b": 30.0})
    np.testing.assert_allclose(found["mean"], [-1.5, -4, np.nan])
    np.testing.assert_allclose(found["deviation"], [np.sqrt(0.5), np.nan, np.nan])
    assert found["checkpoints"].values.tolist() == [2, 1, 0]
    # Of the two means alone: |−1.5 + 4| / sqrt(2).
    assert float(found["spread"]) == pytest.approx(2.5 / np.sqrt(2))
    other = scores_since(groups, {"a": 0.0}, tokens=(1, 6))
    assert float(other["mean"][0]) == -2 and np.isnan(other["spread"])


def test_scores_of_other_tokens_are_refused() -> None:
    with pytest.raises(InputError, match="different inputs"):
        scores_since({"a": group_of([0] * 4), "b": group_of([0] * 4, "b" * 64)}, {})
