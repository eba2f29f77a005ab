"""Responses to match length, on a known induction head and against whole matrices."""

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from pipeline.analysis.inputs import make_input
from pipeline.config import MatchesInput
from pipeline.measures.base import Setting
from pipeline.measures.fuzzy_induction import FuzzyInduction, slope
from pipeline.models.organism_config import OrganismConfig
from pipeline.models.resident import Resident
from tests.pipeline.measures import measuring


def measured(resident, made):
    measure = FuzzyInduction()
    lengths = measure.coordinates(Setting(resident.facts, made))["match_length"]
    return measuring.measured(measure, resident, made), lengths


def test_a_head_that_compares_one_token_answers_every_length_alike(hand_built):
    spec = MatchesInput(strings=2, longest=2, sequences=6)
    values, lengths = measured(hand_built, make_input("matches", spec, "", hand_built.facts))
    np.testing.assert_array_equal(lengths, [1, 2])
    np.testing.assert_allclose(values["attention"][1], 1, rtol=1e-6)
    np.testing.assert_allclose(values["null"][1], 0, atol=1e-6)
    np.testing.assert_allclose(values["slope"][1], 0, atol=1e-6)
    assert (values["attention"][0, 0] == 0).all()  # previous token


def test_values_are_means_over_probes_found_by_searching_the_tokens():
    torch.manual_seed(0)
    config = OrganismConfig(hidden_size=32)
    config._attn_implementation = "eager"
    reference = AutoModelForCausalLM.from_config(config).eval()
    resident = Resident(config)
    resident.swap({name: p.detach().clone() for name, p in reference.named_parameters()})
    made = make_input("matches", MatchesInput(longest=4, sequences=8), "", resident.facts)
    values, _ = measured(resident, made)

    ids = torch.from_numpy(made.tokens)
    with torch.no_grad():
        out = reference(ids, output_attentions=True)
    p, log_p = torch.stack(out.attentions), out.logits.log_softmax(-1)
    attention: dict[int, list] = {m: [] for m in range(1, 5)}
    loss: dict[int, list] = {m: [] for m in range(1, 5)}
    for s, row in enumerate(made.tokens.tolist()):
        for i in range(len(row) - 1):
            # A probe is where the next token, too, is the one that came next before.
            if row[i] in row[:i] and row[i + 1] == row[row.index(row[i]) + 1]:
                j, m = row.index(row[i]), 0
                while j - m >= 0 and row[j - m] == row[i - m]:
                    m += 1
                if j + 2 == row.index(row[i + 1]) + 1 and (j + 1) % 5 == 4:
                    attention[m].append(p[:, s, :, i, j + 1])
                    loss[m].append(-log_p[s, i, row[i + 1]])
    assert [len(attention[m]) for m in range(1, 5)] == [6, 6, 6, 6]
    for m in range(1, 5):
        expected = torch.stack(attention[m]).mean(0)
        np.testing.assert_allclose(values["attention"][..., m - 1], expected, rtol=1e-4)
        np.testing.assert_allclose(values["loss"][m - 1], torch.stack(loss[m]).mean(), rtol=1e-4)


def test_the_slope_is_that_of_the_least_squares_line():
    x, y = np.arange(1, 9), np.random.default_rng(0).normal(size=(3, 8))
    expected = [np.polyfit(x, row, 1)[0] for row in y]
    np.testing.assert_allclose(slope(x, y), expected)
    np.testing.assert_allclose(slope(x, 0.25 * x - 1), 0.25)
