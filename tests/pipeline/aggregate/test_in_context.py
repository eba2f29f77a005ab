"""Loss by position and in-context scores against NumPy and SciPy on whole arrays."""

import numpy as np
import pytest
import scipy.stats
import xarray as xr

from pipeline.aggregate import blocks
from pipeline.aggregate.in_context import (
    compare_positions,
    final_scores,
    in_context_scores,
    loss_by_position,
)
from pipeline.errors import InputError
from tests.pipeline.aggregate.losses import as_group

RNG = np.random.default_rng(3)


def drawn(steps: int = 5, sequences: int = 12, positions: int = 20) -> np.ndarray:
    return RNG.gamma(2, 2, (steps, sequences, positions)).astype(np.float32)


def test_loss_by_position_has_mean_and_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_READ", 200)  # two sequences at a time
    losses = drawn()
    losses[:, 4, 15:] = np.nan  # padding
    losses[:, 1:, 19] = np.nan  # one sequence is left there
    losses[2, 0, 3] = np.nan  # a number of the model that is not finite
    for group in (as_group(losses), as_group(losses).chunk({"step": 2, "sequence": 3})):
        found = loss_by_position(group)
        wide = losses.astype(np.float64)
        expected = np.nanmean(wide, axis=1)
        expected[2, 3] = np.nan
        np.testing.assert_allclose(found["mean"], expected)
        error = scipy.stats.sem(wide, axis=1, nan_policy="omit")
        error = np.asarray(error, dtype=float)
        error[2, 3] = np.nan
        error[:, 19] = np.nan
        np.testing.assert_allclose(found["standard_error"], error)


def test_scores_at_chosen_tokens_are_paired_differences() -> None:
    losses = drawn()
    found = in_context_scores(as_group(losses), [(2, 6), (1, 20)])
    for i, (early, late) in enumerate([(2, 6), (1, 20)]):
        difference = losses[:, :, late - 1].astype(float) - losses[:, :, early - 1]
        np.testing.assert_allclose(found["score"][:, i], difference.mean(axis=1))
        expected = scipy.stats.sem(difference, axis=1)
        np.testing.assert_allclose(found["standard_error"][:, i], expected)
    group = as_group(losses)
    own = in_context_scores(group)
    np.testing.assert_allclose(own["score"][:, 0], group["in_context_score"], rtol=1e-5)
    with pytest.raises(InputError, match="<= 20, found 6 and 21"):
        in_context_scores(group, [(6, 21)])
    del group.attrs["parameters"]
    with pytest.raises(InputError, match="give `tokens`"):
        in_context_scores(group)


def test_small_less_big_is_paired_by_sequence() -> None:
    hard = RNG.gamma(2, 2, (1, 12, 20))
    small = as_group((drawn() * 0.01 + hard + 1).astype(np.float32))
    big = as_group((drawn(3) * 0.01 + hard).astype(np.float32))
    found = compare_positions(small, big, tokens=(1, 10, 100), window=3)
    difference = small["loss"].values[-1].astype(float) - big["loss"].values[-1]
    np.testing.assert_allclose(found["difference"], difference.mean(axis=0))
    np.testing.assert_allclose(found["standard_error"], scipy.stats.sem(difference, axis=0))
    # Token 1 has position 0; its window ends at position 3. Token 10: positions 6 to 12.
    windows = np.stack([difference[:, :4].mean(axis=1), difference[:, 6:13].mean(axis=1)])
    np.testing.assert_allclose(found["at_token"], windows.mean(axis=1))
    np.testing.assert_allclose(found["at_token_error"], scipy.stats.sem(windows, axis=1))
    # Sequences differ by nats, the difference by hundredths.
    assert (found["standard_error"] < 0.05).all()
    assert found.attrs["beyond"] == [100] and found.attrs["steps"] == [4, 2]
    with pytest.raises(InputError, match="no checkpoint at step 7"):
        compare_positions(small, big, steps=(7, 2))
    with pytest.raises(InputError, match="different inputs"):
        compare_positions(small, as_group(drawn(), digest="c"))


def test_final_scores_of_runs_and_their_spread() -> None:
    runs = {name: as_group(drawn(3, 40)) for name in "abc"}
    found = final_scores(runs, (2, 6))
    rows = [group["loss"].values[-1].astype(float) for group in runs.values()]
    scores = np.stack([row[:, 5] - row[:, 1] for row in rows])
    np.testing.assert_allclose(found["score"], scores.mean(axis=1))
    np.testing.assert_allclose(found["standard_error"], scipy.stats.sem(scores, axis=1))
    assert float(found["spread"]) == pytest.approx(scores.mean(axis=1).std(ddof=1))
    # Hotelling by hand: T² = n d' S⁻¹ d, F = (n - 2) / (2 (n - 1)) T² with 2 and n - 2 freedoms.
    d = (scores[1:] - scores[0]).T
    t2 = 40 * d.mean(axis=0) @ np.linalg.solve(np.cov(d.T), d.mean(axis=0))
    expected = scipy.stats.f.sf(38 / (2 * 39) * t2, 2, 38)
    assert float(found["equal_p"]) == pytest.approx(expected)
    two = final_scores({"a": runs["a"], "b": runs["b"]}, (2, 6))
    paired = scipy.stats.ttest_rel(scores[0], scores[1]).pvalue
    assert float(two["equal_p"]) == pytest.approx(paired)


def test_equal_runs_and_few_sequences_leave_the_test_undefined() -> None:
    group = as_group(drawn())
    assert np.isnan(final_scores({"a": group, "b": group})["equal_p"])
    few = {name: as_group(drawn(3, 3)) for name in "abcd"}
    assert np.isnan(final_scores(few)["equal_p"])
    with pytest.raises(InputError, match="at least two"):
        final_scores({"a": group})
    with pytest.raises(InputError, match="different inputs"):
        final_scores({"a": group, "b": as_group(drawn(), digest="d")})


def test_equal_scores_are_refused_as_often_as_stated() -> None:
    p = []
    for _ in range(60):
        runs = {name: as_group(drawn(1, 30, 7)) for name in "abc"}
        p.append(float(final_scores(runs)["equal_p"]))
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01


def test_variables_carry_units_and_definitions() -> None:
    found: list[xr.Dataset] = [
        loss_by_position(as_group(drawn())),
        in_context_scores(as_group(drawn())),
    ]
    for dataset in found:
        assert all(dataset[name].attrs["units"] == "nats" for name in dataset.data_vars)
        assert all(dataset[name].attrs["definition"] for name in dataset.data_vars)
