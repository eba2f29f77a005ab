import numpy as np
import pytest
import torch
from numpy import cos, pi, sin

from pipeline.measures.lottery_ticket import LotteryTicket, encoded, share_above
from pipeline.models.organism import OrganismForCausalLM
from tests.pipeline.modular_organisms import (
    config,
    context,
    measured,
    random_model,
    table_input,
)

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
    some = LotteryTicket(key_share=0.8)
    reference = some.reference(context(final, table))
    torch.manual_seed(5)
    early = OrganismForCausalLM(config(P)).double().requires_grad_(False)
    found = measured(MEASURE, early, table, reference)
    W_early = early.model.embed_tokens.weight[:P].numpy()
    W_final = final.model.embed_tokens.weight[:P].numpy().astype(np.float32).astype(np.float64)
    ratios, ranks = [], []
    for k in range(1, P // 2 + 1):
        spectra = [spectrum(W_early @ d) for d in directions(W_final, k)]
        ratios.append(np.mean([s[k - 1] / s.sum() for s in spectra]) * (P - 1) / 2)
        ranks.append(np.mean([1 + (s > s[k - 1]).sum() for s in spectra]))
    np.testing.assert_allclose(found["power_ratio"], ratios, rtol=1e-9)
    np.testing.assert_allclose(found["rank"], ranks)
    keys = np.array(reference["key_frequencies"]) - 1
    others = np.setdiff1d(np.arange(P // 2), keys)
    assert 0 < len(keys) < P // 2
    for name, values in (("power_ratio", found["power_ratio"]), ("rank", found["rank"])):
        assert found[f"mean_{name}"] == pytest.approx(values[keys].mean())
        assert found[f"other_{name}"] == pytest.approx(values[others].mean())
    above = [found["power_ratio"][k] > found["power_ratio"][j] for k in keys for j in others]
    assert found["keys_above_others"] == pytest.approx(np.mean(above))


def with_keys(keys: list[int], last: np.ndarray) -> dict:
    return {"key_frequencies": keys, "embedding": encoded(torch.tensor(last))}


def test_directions_that_were_always_there_rank_first():
    model = random_model(P)
    wave = np.stack([cos(2 * pi * 3 * X / P), sin(2 * pi * 3 * X / P)], axis=1)
    model.model.embed_tokens.weight[:P] *= 0.01
    model.model.embed_tokens.weight[:P, :2] += torch.tensor(wave)
    last = np.pad(wave, ((0, 0), (0, 10)))
    found = measured(MEASURE, model, table_input(P), with_keys([3], last))
    assert found["rank"][2] == 1
    assert found["power_ratio"][2] == pytest.approx((P - 1) / 2, rel=1e-2)


def test_random_directions_have_a_ratio_of_one_on_average():
    rng, ratios, ranks, above = np.random.default_rng(0), [], [], []
    model, table = random_model(P), table_input(P)
    for _ in range(300):
        model.model.embed_tokens.weight[:] = torch.tensor(rng.normal(size=(P + 1, 12)))
        found = measured(MEASURE, model, table, with_keys([2], rng.normal(size=(P, 12))))
        ratios.append(found["mean_power_ratio"])
        ranks.append(found["mean_rank"])
        above.append(found["keys_above_others"])
    assert np.mean(ratios) == pytest.approx(1, abs=0.1)
    assert np.mean(ranks) == pytest.approx((P // 2 + 1) / 2, abs=0.2)
    assert np.mean(above) == pytest.approx(0.5, abs=0.06)


def test_what_is_left_of_the_first_weights_raises_keys_and_others_alike():
    """The last W_E is the first one, shrunk."""
    rng, ratios, above = np.random.default_rng(0), [], []
    model, table = random_model(P), table_input(P)
    for _ in range(200):
        first = rng.normal(size=(P + 1, 12))
        model.model.embed_tokens.weight[:] = torch.tensor(first)
        found = measured(MEASURE, model, table, with_keys([2], 0.1 * first[:P]))
        ratios.append([found["mean_power_ratio"], found["other_power_ratio"]])
        above.append(found["keys_above_others"])
    key, other = np.mean(ratios, axis=0)
    assert key > 2 and other > 2  # no key frequency was chosen, and yet both are above chance
    assert np.mean(above) == pytest.approx(0.5, abs=0.06)


def test_pairs_of_keys_and_others_are_counted_by_hand():
    # 3 > 1, 3 > 2, 3 = 3; 1 = 1, 1 < 2, 1 < 3: (1 + 1 + 1/2 + 1/2 + 0 + 0) / 6
    assert share_above(np.array([3.0, 1.0]), np.array([1.0, 2.0, 3.0])) == 0.5
    assert np.isnan(share_above(np.array([3.0, np.nan]), np.array([1.0])))
    assert np.isnan(share_above(np.array([]), np.array([1.0])))


def test_a_frequency_that_the_last_embedding_lacks_has_no_direction():
    found = measured(MEASURE, random_model(P), table_input(P), with_keys([3], np.zeros((P, 12))))
    assert np.isnan(found["power_ratio"]).all() and np.isnan(found["rank"]).all()
    assert np.isnan(found["keys_above_others"])


def test_other_operations_have_no_key_frequencies():
    model, table = random_model(P), table_input(P, "x2_y2")
    reference = MEASURE.reference(context(model, table))
    assert reference["key_frequencies"] == [] and "x2_y2" in reference["undefined"]
    found = measured(MEASURE, model, table, reference)
    assert np.isfinite(found["power_ratio"]).all()
    for name in MEASURE.needs_waves:
        assert np.isnan(found[name]), name
