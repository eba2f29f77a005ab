import numpy as np
import pytest
import torch
from numpy import cos, pi, sin

from pipeline.measures.embedding_plane import EmbeddingPlane, circle
from tests.pipeline.modular_organisms import context, measured, random_model, table_input

MEASURE = EmbeddingPlane()
P = 11


def embedding(model) -> np.ndarray:
    return model.model.embed_tokens.weight[:P].numpy()


def test_coordinates_and_circularity_follow_the_formulas():
    model, table = random_model(P), table_input(P)
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(12, 2)))[0].T
    found = measured(MEASURE, model, table, {"axes": axes.tolist()})
    centred = embedding(model) - embedding(model).mean(axis=0)
    np.testing.assert_allclose(found["first"], centred @ axes[0], rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(found["second"], centred @ axes[1], rtol=1e-9, atol=1e-13)
    share = ((centred @ axes.T) ** 2).sum() / (centred**2).sum()
    assert found["variance_share"] == pytest.approx(share, rel=1e-9)
    z = centred @ axes[0] + 1j * (centred @ axes[1])
    x = np.arange(P)
    power = np.array([abs((z * np.exp(-2j * pi * k * x / P)).sum()) ** 2 for k in range(1, P)])
    assert found["circularity"] == pytest.approx(power.max() / power.sum(), rel=1e-9)
    best = int(power.argmax()) + 1
    assert found["circle_frequency"] == min(best, P - best)


def test_the_reference_is_the_plane_of_most_variance():
    model = random_model(P)
    found = np.array(MEASURE.reference(context(model))["axes"])
    centred = embedding(model) - embedding(model).mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)
    for axis, direction in zip(found, directions.T[::-1], strict=False):
        assert abs(axis @ direction) == pytest.approx(1, abs=1e-9)
        assert axis[np.abs(axis).argmax()] > 0


def test_residues_on_a_circle_score_one_however_it_is_turned():
    x = np.arange(P)
    for k, turn in ((3, 0.0), (4, 1.0), (8, -2.5)):
        angle = 2 * pi * k * x / P + turn
        score, frequency = circle(torch.tensor(np.stack([cos(angle), sin(angle)], axis=1)))
        assert float(score) == pytest.approx(1, abs=1e-12)
        assert float(frequency) == min(k, P - k)


def test_a_line_scores_half_and_a_point_is_undefined():
    x = np.arange(P)
    line = torch.tensor(np.stack([cos(2 * pi * 2 * x / P), np.zeros(P)], axis=1))
    assert float(circle(line)[0]) == pytest.approx(0.5, abs=1e-12)
    assert all(torch.isnan(value) for value in circle(torch.zeros(P, 2, dtype=torch.float64)))
