from decimal import Decimal, getcontext

import numpy as np
import pytest
import torch

from pipeline.measures.modular import fourier


@pytest.mark.parametrize("p", [3, 7, 8, 113])
def test_the_basis_is_orthonormal(p):
    basis = fourier.fourier_basis(p).numpy()
    assert np.abs(basis @ basis.T - np.eye(p)).max() < 1e-14


@pytest.mark.parametrize("p", [7, 12])
def test_power_is_that_of_the_fast_fourier_transform(p):
    x = np.random.default_rng(0).normal(size=(p, 5))
    spectrum = (np.abs(np.fft.fft(x, axis=0)) ** 2).sum(axis=1) / p
    expected = [
        spectrum[k] if 2 * k == p else spectrum[k] + spectrum[p - k] for k in range(1, p // 2 + 1)
    ]
    np.testing.assert_allclose(fourier.power(torch.tensor(x)), expected, rtol=1e-12)


def test_gini_is_the_mean_difference_over_twice_the_mean():
    x = np.random.default_rng(1).exponential(size=11)
    expected = np.abs(x[:, None] - x[None]).mean() / (2 * x.mean())
    assert float(fourier.gini(torch.tensor(x))) == pytest.approx(expected, rel=1e-13)


def test_gini_of_known_distributions():
    assert float(fourier.gini(torch.ones(5, dtype=torch.float64))) == 0
    one = torch.tensor([0.0, 0.0, 0.0, 2.0], dtype=torch.float64)
    assert float(fourier.gini(one)) == 0.75
    assert torch.isnan(fourier.gini(torch.zeros(4, dtype=torch.float64)))


def test_largest_keeps_what_reaches_the_share_of_the_maximum():
    assert fourier.largest(torch.tensor([10.0, 1.0, 0.999, 0.0]), 0.1) == [1, 2]
    assert fourier.largest(torch.zeros(3), 0.1) == []


@pytest.mark.parametrize("scale", [1e-3, 1.0, 60.0, 700.0])
def test_cross_entropy_agrees_with_fifty_digit_arithmetic(scale):
    getcontext().prec = 400
    rng = np.random.default_rng(2)
    logits, labels = rng.normal(size=(6, 5)) * scale, rng.integers(0, 5, 6)
    labels[:3] = logits[:3].argmax(axis=1)
    found = fourier.cross_entropy(torch.tensor(logits), torch.tensor(labels)).numpy()
    for row, label, loss in zip(logits, labels, found, strict=True):
        exact = sum((Decimal(x) - Decimal(row[label])).exp() for x in row).ln()
        if exact > Decimal("1e-300"):
            assert abs(Decimal(float(loss)) / exact - 1) < Decimal("1e-11")
        else:
            assert loss < 1e-300


def test_a_naive_cross_entropy_would_be_off_where_this_one_is_not():
    logits = torch.tensor([[28.0, 0.0, 0.0]], dtype=torch.float64)
    exact = np.log1p(2 * np.exp(-28))
    naive = float(logits.logsumexp(1) - 28)
    assert abs(naive / exact - 1) > 1e-4
    ours = float(fourier.cross_entropy(logits, torch.tensor([0])))
    assert ours == pytest.approx(exact, rel=1e-14)


def test_projection_keeps_the_waves_in_the_answer_and_nothing_else():
    p = 13
    rng = np.random.default_rng(3)
    table = rng.normal(size=(p, 4))
    s = np.arange(p)
    waves = np.stack([f(2 * np.pi * k * s / p) for k in (2, 6) for f in (np.cos, np.sin)])
    coefficients, *_ = np.linalg.lstsq(waves.T, table, rcond=None)
    found = fourier.projected(torch.tensor(table), [2, 6])
    np.testing.assert_allclose(found, waves.T @ coefficients, atol=1e-13)


@pytest.mark.parametrize("p", [7, 8])
def test_wave_coefficients_are_the_least_squares_fit_over_all_cells(p):
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(p, p, p))
    a, b, c = np.mgrid[:p, :p, :p]
    waves = [np.cos(2 * np.pi * k * (a + b - c) / p).ravel() for k in range(1, p // 2 + 1)]
    expected, *_ = np.linalg.lstsq(np.stack(waves, axis=1), logits.ravel(), rcond=None)
    answer = (a + b)[..., 0] % p
    by_answer = np.stack([logits[answer == s].mean(axis=0) for s in range(p)])
    found = fourier.answer_wave_coefficients(torch.tensor(by_answer))
    np.testing.assert_allclose(found, expected, atol=1e-13)
