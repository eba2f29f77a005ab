import numpy as np
import pytest
import torch
from numpy import cos, pi, sin

from pipeline.measures.lottery_ticket import LotteryTicket
from pipeline.models.organism import OrganismForCausalLM
from tests.pipeline.modular_organisms import config, measured, random_model, table_input, weights

MEASURE = LotteryTicket()
P = 11
X = np.arange(P)


def directions(W_E: np.ndarray, k: int) -> list[np.ndarray]:
    raw = [f(2 * pi * k * X / P) @ W_E for f in (cos, sin)]
    return [d / np.linalg.norm(d) for d in raw]


def spectrum(f: np.ndarray) -> np.ndarray:
    return np.abs(np.fft.fft(f)[1 : P // 2 + 1]) ** 2


def test_power_and_rank_follow_the_formulas():
    final, table = random_model(P), table_input(P)
    reference = MEASURE.reference((), weights(final))
    torch.manual_seed(5)
    early = OrganismForCausalLM(config(P)).double().requires_grad_(False)
    found = measured(MEASURE, early, table, reference)
    W_early = early.model.embed_tokens.weight[:P].numpy()
    W_final = final.model.embed_tokens.weight[:P].numpy()
    keys = reference["key_frequencies"]
    assert keys
    for k in range(1, P // 2 + 1):
        if k not in keys:
            assert np.isnan(found["power_ratio"][k - 1])
            continue
        spectra = [spectrum(W_early @ d) for d in directions(W_final, k)]
        ratio = np.mean([s[k - 1] / s.sum() for s in spectra]) * (P - 1) / 2
        rank = np.mean([1 + (s > s[k - 1]).sum() for s in spectra])
        assert found["power_ratio"][k - 1] == pytest.approx(ratio, rel=1e-9)
        assert found["rank"][k - 1] == pytest.approx(rank)
    assert found["mean_rank"] == pytest.approx(np.nanmean(found["rank"]))
    assert found["mean_power_ratio"] == pytest.approx(np.nanmean(found["power_ratio"]))


def test_directions_that_were_always_there_rank_first():
    model = random_model(P)
    wave = np.stack([cos(2 * pi * 3 * X / P), sin(2 * pi * 3 * X / P)], axis=1)
    model.model.embed_tokens.weight[:P] *= 0.01
    model.model.embed_tokens.weight[:P, :2] += torch.tensor(wave)
    reference = {"key_frequencies": [3], "directions": [np.eye(12)[:2].tolist()]}
    found = measured(MEASURE, model, table_input(P), reference)
    assert found["rank"][2] == 1
    assert found["power_ratio"][2] == pytest.approx((P - 1) / 2, rel=1e-2)


def test_random_directions_have_a_ratio_of_one_on_average():
    rng, ratios, ranks = np.random.default_rng(0), [], []
    model, table = random_model(P), table_input(P)
    for _ in range(300):
        model.model.embed_tokens.weight[:] = torch.tensor(rng.normal(size=(P + 1, 12)))
        chosen = {"key_frequencies": [2], "directions": [rng.normal(size=(2, 12)).tolist()]}
        found = measured(MEASURE, model, table, chosen)
        ratios.append(found["mean_power_ratio"])
        ranks.append(found["mean_rank"])
    assert np.mean(ratios) == pytest.approx(1, abs=0.1)
    assert np.mean(ranks) == pytest.approx((P // 2 + 1) / 2, abs=0.2)
