"""Induction on natural repeats, against whole attention matrices and a search of the tokens."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.inputs import Input
from pipeline.measures.natural_induction import NaturalInduction
from pipeline.models.organism_config import OrganismConfig
from pipeline.models.resident import Resident
from tests.pipeline.measures.measuring import measured

TOKENS = np.random.default_rng(0).integers(8, size=(6, 30))


def random_model() -> tuple[AutoModelForCausalLM, Resident]:
    torch.manual_seed(0)
    config = OrganismConfig(hidden_size=32, vocab_size=20, embedding_range=1.0)
    config._attn_implementation = "eager"
    reference = AutoModelForCausalLM.from_config(config).eval()
    resident = Resident(config)
    resident.swap({name: p.detach().clone() for name, p in reference.named_parameters()})
    return reference, resident


def latest(row: list[int], i: int, length: int) -> int:
    """Return the end of the latest earlier occurrence, by search; -1 if there is none."""
    string = row[i - length + 1 : i + 1]
    ends = [j for j in range(length - 1, i - 1) if row[j - length + 1 : j + 1] == string]
    return max(ends, default=-1) if i >= length - 1 else -1


@pytest.mark.parametrize("length", [1, 2])
def test_scores_and_losses_are_means_over_what_a_search_finds(length):
    reference, resident = random_model()
    found = measured(NaturalInduction(match=length), resident, Input("text", "text", TOKENS))
    with torch.no_grad():
        out = reference(torch.from_numpy(TOKENS), output_attentions=True)
    p, log_p = torch.stack(out.attentions).double(), out.logits.double().log_softmax(-1)
    scores, null = [], []
    losses: dict[str, list] = {"repeated_loss": [], "changed_loss": [], "other_loss": []}
    rows = TOKENS.tolist()
    for s, row in enumerate(rows):
        for i in range(len(row)):
            j = latest(row, i, length)
            if j >= 0:
                scores.append(p[:, s, :, i, j + 1])
            there = latest(rows[(s + 1) % 6], i, length)
            if there >= 0 and row[there] != row[i]:
                null.append(p[:, s, :, i, there + 1])
            if i < len(row) - 1:
                name = "other" if j < 0 else "repeated" if row[j + 1] == row[i + 1] else "changed"
                losses[f"{name}_loss"].append(-log_p[s, i, row[i + 1]])
    np.testing.assert_allclose(found["induction"], torch.stack(scores).mean(0), rtol=1e-4)
    np.testing.assert_allclose(found["null"], torch.stack(null).mean(0), rtol=1e-4)
    for name, values in losses.items():
        assert values
        np.testing.assert_allclose(found[name], torch.stack(values).mean(), rtol=1e-4)


def test_an_induction_head_scores_one_and_its_null_is_low(hand_built):
    rng = np.random.default_rng(0)
    # Strings of different lengths, twice, so that the matches of one are no matches of the next.
    rows = []
    for n in (5, 6, 7, 8):
        ids = rng.permutation(np.arange(1, 20))
        rows.append([*ids[:n], *ids[:n], *ids[n : n + 16 - 2 * n]])
    tokens = np.array(rows)
    found = measured(NaturalInduction(), hand_built, Input("text", "text", tokens))
    np.testing.assert_allclose(found["induction"][1], 1, rtol=1e-5)
    assert (found["null"][1] < 0.15).all()
    assert (found["induction"][0, 0] < 1e-5).all()  # previous token


def test_a_head_that_attends_by_distance_scores_the_same_as_its_null():
    rng = np.random.default_rng(0)
    # Every other sequence repeats nothing, so that each match has a null at its own place.
    rows = [np.resize(rng.permutation(20)[:9], 18), rng.permutation(20)[:18]] * 2
    _, resident = random_model()
    # Without queries, attention is uniform: one key gets 1 / (i + 1) at every distance.
    resident.swap(
        {n: torch.zeros_like(w) if "q_proj" in n else w for n, w in resident.weights.items()}
    )
    found = measured(NaturalInduction(), resident, Input("text", "text", np.stack(rows)))
    expected = np.mean([1 / (i + 1) for i in range(10, 18)])
    np.testing.assert_allclose(found["induction"], expected, rtol=1e-5)
    np.testing.assert_allclose(found["null"], expected, rtol=1e-5)


def test_nothing_is_measured_where_nothing_repeats():
    _, resident = random_model()
    tokens = np.arange(20)[None]
    found = measured(NaturalInduction(), resident, Input("text", "text", tokens))
    assert np.isnan(found["induction"]).all() and np.isnan(found["null"]).all()
    assert np.isnan(found["repeated_loss"]) and np.isfinite(found["other_loss"])
