"""Means of learning curves by kind of token against direct means and a bootstrap."""

import numpy as np
import pytest

from pipeline.aggregate.kinds_of_token import by_kind_of_token, variability_over_runs
from pipeline.aggregate.learning_curves import learning_curves
from pipeline.aggregate.token_features import token_features
from pipeline.errors import InputError
from tests.pipeline.aggregate.losses import as_group
from tests.pipeline.aggregate.test_learning_curves import STEPS, falling

RNG = np.random.default_rng(9)
TOKENS = np.minimum(RNG.zipf(1.5, (30, 17)), 40)
FEATURES = token_features(TOKENS)


def curves_of(noise: float = 0.2) -> object:
    midpoints = 1.5 + 0.5 * (FEATURES["repetition"].values == 2)
    losses = falling(midpoints, noise=noise)
    losses[:, 3, :] = 5.0  # a sequence that is not learned
    return learning_curves(as_group(losses, STEPS))


def test_means_by_repetition_are_those_of_the_tokens() -> None:
    curves = curves_of()
    found = by_kind_of_token(curves, FEATURES)
    for i in range(3):
        mine = FEATURES["repetition"].values == i
        final = curves["final_surprisal"].values[mine]
        assert float(found["final_surprisal_by_repetition"][i]) == pytest.approx(final.mean())
        ages = curves["age_of_acquisition"].values[mine]
        geometric = np.exp(np.nanmean(np.log(ages)))
        assert float(found["age_of_acquisition_by_repetition"][i]) == pytest.approx(geometric)
        share = np.isfinite(ages).mean()
        assert float(found["with_age_by_repetition"][i]) == pytest.approx(share)
        assert found["final_surprisal_tokens_by_repetition"][i] == mine.sum()
    new, _, pair = found["age_of_acquisition_by_repetition"].values
    assert np.log10(pair / new) == pytest.approx(0.5, abs=0.05)


def test_bins_of_frequency_hold_all_tokens_in_order() -> None:
    found = by_kind_of_token(curves_of(), FEATURES, bins=4)
    assert found["final_surprisal_tokens_by_frequency_bin"].sum() == 30 * 16
    assert (np.diff(found["log_frequency"]) > 0).all()


def test_errors_over_sequences_are_those_of_a_bootstrap() -> None:
    curves = curves_of()
    mine = FEATURES["repetition"].values == 2
    values = curves["final_surprisal"].values
    means = []
    for _ in range(400):
        rows = RNG.integers(0, 30, 30)
        means.append(values[rows][mine[rows]].mean())
    found = by_kind_of_token(curves, FEATURES)["final_surprisal_error_by_repetition"][2]
    assert float(found) == pytest.approx(np.std(means), rel=0.25)


def test_features_of_another_input_are_refused() -> None:
    with pytest.raises(InputError, match="expected features of the tokens"):
        by_kind_of_token(curves_of(), FEATURES.isel(sequence=slice(4)))


def test_variability_over_runs_is_a_standard_deviation() -> None:
    runs = {name: curves_of(noise) for name, noise in (("a", 0.1), ("b", 0.2), ("c", 0.3))}
    found = variability_over_runs(runs)
    final = np.stack([one["final_surprisal"].values for one in runs.values()])
    np.testing.assert_allclose(found["final_surprisal"], final.std(axis=0, ddof=1))
    ages = np.log10([one["age_of_acquisition"].values for one in runs.values()])
    all_have = np.isfinite(ages).all(axis=0)
    np.testing.assert_allclose(
        found["log_age"].values[all_have], ages[:, all_have].std(axis=0, ddof=1)
    )
    assert np.isnan(found["log_age"].values[3]).all()
    assert found.attrs["with_ages"] == all_have.sum() and found.attrs["tokens"] == 480
    with pytest.raises(InputError, match="at least two"):
        variability_over_runs({"a": runs["a"]})


def test_runs_on_different_tokens_are_refused() -> None:
    a = curves_of()
    b = a.assign_attrs(input={"digest": "b"})
    with pytest.raises(InputError, match="different inputs"):
        variability_over_runs({"a": a, "b": b})
