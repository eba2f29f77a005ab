"""Transitions of planted series, and of series that have none."""

import numpy as np
import pytest

from pipeline.aggregate.log_axis import log_steps, make_axis, without_spikes
from pipeline.aggregate.transitions import EVIDENCE, Transition, find_transitions, scan

PYTHIA = np.array([0, *2 ** np.arange(10), *range(1000, 144_000, 1000)])
LOG = np.unique(np.geomspace(10, 1_000_000, 150).round().astype(int))
LINEAR = 25 * np.arange(600)


def rise(steps: np.ndarray, midpoint: float, width: float) -> np.ndarray:
    """Return a series that is done by 10% and by 90% at two steps `width` decades apart."""
    decades = log_steps(steps) - np.log10(midpoint)
    return 1 / (1 + 9 ** (-2 * decades / width))


def noise(steps: np.ndarray, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(len(steps))


def only(found: list[Transition]) -> Transition:
    (one,) = found
    return one


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("steps", [PYTHIA, LOG, LINEAR], ids=["pythia", "log", "linear"])
def test_a_planted_transition_is_found_with_its_places_and_its_size(steps, sign):
    values = 3 + sign * 2 * rise(steps, 3000, 0.2) + noise(steps) / 10
    found = only(find_transitions(steps, values))
    for place, truth in (
        ("onset", 3000 * 10**-0.1),
        ("midpoint", 3000),
        ("end", 3000 * 10**0.1),
        ("amplitude", sign * 2),
    ):
        low, high = getattr(found, f"{place}_interval")
        assert low <= getattr(found, place) <= high
        assert getattr(found, place) == pytest.approx(truth, rel=0.1)
    assert found.width == pytest.approx(0.2, abs=0.08)
    assert found.evidence > EVIDENCE


def test_two_transitions_are_both_found_in_order():
    values = rise(LOG, 500, 0.1) - 2 * rise(LOG, 60_000, 0.2) + noise(LOG) / 15
    first, second = find_transitions(LOG, values)
    assert first.midpoint == pytest.approx(500, rel=0.1)
    assert second.midpoint == pytest.approx(60_000, rel=0.1)
    assert first.amplitude == pytest.approx(1, abs=0.15)
    assert second.amplitude == pytest.approx(-2, abs=0.15)


@pytest.mark.parametrize(
    "curve",
    [
        lambda steps: (1 + steps / 1000) ** -0.5,
        lambda steps: np.exp(-steps / 20_000),
        lambda steps: log_steps(steps),
        lambda steps: rise(steps, 5000, 2.0),
    ],
    ids=["power law", "exponential", "line", "slow rise"],
)
@pytest.mark.parametrize("steps", [PYTHIA, LOG, LINEAR], ids=["pythia", "log", "linear"])
def test_smooth_curves_have_no_transition(steps, curve):
    values = curve(steps) + noise(steps) / 50
    (found,) = scan(steps, values[None])
    assert not found.transitions
    assert found.shape in ("smooth", "cannot tell")


def test_noise_alone_does_not_change():
    found = scan(LOG, np.stack([noise(LOG, seed) for seed in range(40)]))
    assert sum(one.shape == "none" for one in found) >= 36
    assert sum(bool(one.transitions) for one in found) <= 2


def test_a_constant_series_does_not_change():
    (found,) = scan(LOG, np.full((1, len(LOG)), 0.25))
    assert found.shape == "none"


def test_autocorrelated_noise_is_no_transition():
    rng, wandering = np.random.default_rng(1), []
    for _ in range(40):
        series = rng.standard_normal(len(LOG))
        for i in range(1, len(LOG)):
            series[i] += 0.7 * series[i - 1]
        wandering.append(series)
    found = scan(LOG, np.stack(wandering))
    assert sum(bool(one.transitions) for one in found) <= 3


def test_scale_and_offset_of_the_values_change_nothing_but_the_amplitude():
    values = rise(LOG, 3000, 0.2) + noise(LOG) / 10
    plain, scaled = only(find_transitions(LOG, values)), only(find_transitions(LOG, 5 - 8 * values))
    assert scaled.midpoint_interval == pytest.approx(plain.midpoint_interval)
    assert scaled.amplitude == pytest.approx(-8 * plain.amplitude)
    assert scaled.evidence == pytest.approx(plain.evidence)


def test_the_unit_of_the_steps_scales_the_places():
    values = rise(LOG, 3000, 0.2) + noise(LOG) / 10
    plain, later = only(find_transitions(LOG, values)), only(find_transitions(LOG * 1000, values))
    assert later.midpoint == pytest.approx(1000 * plain.midpoint)
    assert later.width == pytest.approx(plain.width)


def test_spikes_are_counted_and_change_little():
    values = rise(LOG, 3000, 0.2) + noise(LOG) / 10
    spiked = values.copy()
    spiked[[30, 31, 32, 120]] += [60, 900, 3000, -200]
    (found,) = scan(LOG, spiked[None])
    assert found.spikes >= 4
    expected = only(find_transitions(LOG, values))
    assert found.transitions[0].midpoint == pytest.approx(expected.midpoint, rel=0.02)


def test_a_step_is_not_taken_for_a_spike():
    values = np.where(LOG > 3000, 1000.0, 0.0) + noise(LOG)
    assert not without_spikes(LOG, values[None])[1].any()
    assert only(find_transitions(LOG, values)).amplitude == pytest.approx(1000, rel=0.01)


def test_a_plateau_of_few_early_checkpoints_is_no_spike():
    """Of Pythia's 154 checkpoints 13 lie before step 3,000, and more than half of the decades."""
    values = rise(PYTHIA, 3000, 0.2) + noise(PYTHIA) / 20
    early = rise(PYTHIA, 100, 0.2) - rise(PYTHIA, 3000, 0.2) + noise(PYTHIA) / 8
    assert not without_spikes(PYTHIA, np.stack([values, early]))[1].any()


def test_values_that_are_not_finite_are_left_out_and_counted():
    values = rise(LOG, 3000, 0.2) + noise(LOG) / 10
    broken = values.copy()
    broken[[0, 40, 80]] = [np.nan, np.inf, -np.inf]
    kept = np.isfinite(broken)
    other, (found,) = scan(LOG, values[None])[0], scan(LOG, broken[None])
    assert found.left_out == 3 and other.left_out == 0
    assert list(found.transitions) == find_transitions(LOG[kept], values[kept])


def test_series_of_one_scan_do_not_depend_on_each_other():
    values = np.stack([rise(LOG, at, 0.2) + noise(LOG, at) / 10 for at in (300, 3000, 30_000)])
    values[1, 5] = np.nan
    together = scan(LOG, values)
    for one, series in zip(together, values, strict=True):
        (alone,) = scan(LOG, series[None])
        assert one.shape == alone.shape
        assert [t.midpoint for t in one.transitions] == pytest.approx(
            [t.midpoint for t in alone.transitions], rel=1e-6
        )


def test_the_order_of_the_steps_does_not_matter():
    values = rise(LOG, 3000, 0.2) + noise(LOG) / 10
    shuffled = np.random.default_rng(0).permutation(len(LOG))
    assert find_transitions(LOG[shuffled], values[shuffled]) == find_transitions(LOG, values)


@pytest.mark.parametrize("steps", [[0, 1, 1, 2], [-1, 0, 1, 2]])
def test_steps_that_are_not_distinct_or_negative_are_refused(steps):
    with pytest.raises(ValueError, match="distinct and not negative"):
        find_transitions(steps, [0.0, 1.0, 2.0, 3.0])


@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_few_checkpoints_tell_nothing(count):
    (found,) = scan(np.arange(count), np.arange(count, dtype=float)[None])
    assert found.shape == "cannot tell" and not found.transitions


def test_a_change_at_the_end_is_not_claimed():
    """Of a rise whose end is not saved, nobody knows how far it goes."""
    values = rise(LOG, LOG[-1], 0.1) + noise(LOG) / 50
    assert not find_transitions(LOG, values)


def test_step_zero_is_before_the_first():
    assert log_steps(np.array([0, 10, 100])) == pytest.approx([np.log10(5), 1, 2])
    assert log_steps(np.array([0])) == pytest.approx([0])


def test_bins_are_means_of_neighbouring_checkpoints():
    axis = make_axis(LINEAR)
    assert 190 <= len(axis.x) <= 200
    assert axis.counts.sum() == len(LINEAR)
    values = noise(LINEAR)
    by_hand = [values[axis.bin_of == number].mean() for number in range(len(axis.x))]
    assert axis.binned(values[None])[0] == pytest.approx(by_hand)
    assert (np.diff(axis.bin_of) >= 0).all() and (np.diff(axis.x) > 0).all()


@pytest.mark.parametrize("scale", [1e300, 1e-300, -1e-12, 1e12])
def test_the_unit_of_a_series_changes_nothing_but_its_amplitude(scale):
    steps = np.arange(1, 201)
    values = (steps > 60) + 0.05 * np.random.default_rng(0).standard_normal(200)
    (one,), (scaled,) = find_transitions(steps, values), find_transitions(steps, values * scale)
    assert scaled.midpoint == pytest.approx(one.midpoint, rel=1e-9)
    assert scaled.amplitude / scale == pytest.approx(one.amplitude, rel=1e-9)
    ends = sorted(end / scale for end in scaled.amplitude_interval)
    np.testing.assert_allclose(ends, one.amplitude_interval, rtol=1e-9)


def test_steps_and_values_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="2 values, expected one for each of 3 steps"):
        find_transitions([1, 2, 3], [1.0, 2.0])
