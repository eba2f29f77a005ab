"""Divergences from tables of pairs, counted and summed one by one."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.errors import InputError
from pipeline.inputs import Input
from pipeline.measures.bigrams import Bigrams
from pipeline.models.organism_config import OrganismConfig
from pipeline.models.resident import Resident
from tests.pipeline.measures.measuring import measured

V, SMOOTHING = 12, 2.5


def test_divergences_are_those_of_tables_counted_by_hand():
    torch.manual_seed(0)
    config = OrganismConfig(vocab_size=V, hidden_size=16, num_attention_heads=2)
    plain = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for parameter in plain.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    resident = Resident(config)
    resident.swap({name: p.clone() for name, p in plain.named_parameters()})
    rng = np.random.default_rng(0)
    text = Input("text", "text", rng.integers(0, V, (3, 15)))
    corpus = Input("corpus", "text", rng.integers(0, 7, (9, 20)))  # some ids never occur
    found = measured(Bigrams(smoothing=SMOOTHING), resident, text, corpus=corpus)

    single, pairs = np.ones(V), np.zeros((V, V))
    for row in corpus.tokens.tolist():
        for i, x in enumerate(row):
            single[x] += 1
            if i + 1 < len(row):
                pairs[x, row[i + 1]] += 1
    q1 = single / single.sum()
    q2 = (pairs + SMOOTHING * q1) / (pairs.sum(1, keepdims=True) + SMOOTHING)
    np.testing.assert_allclose(q2.sum(1), 1)
    model = plain(torch.from_numpy(text.tokens)).logits.double().softmax(-1).numpy()
    alone = plain.lm_head(plain.model.norm(plain.model.embed_tokens.weight))
    direct = alone.double().softmax(-1).numpy()
    sums = dict.fromkeys(found, 0.0)
    for s, row in enumerate(text.tokens.tolist()):
        for i, x in enumerate(row[:-1]):
            p, d = model[s, i], direct[x]
            sums["from_unigrams"] += (p * np.log(p / q1)).sum()
            sums["from_bigrams"] += (p * np.log(p / q2[x])).sum()
            sums["direct_path"] += (d * np.log(d / q2[x])).sum()
            sums["unigram_loss"] -= np.log(q1[row[i + 1]])
            sums["bigram_loss"] -= np.log(q2[x, row[i + 1]])
    for name, total in sums.items():
        assert found[name] == pytest.approx(total / (3 * 14), abs=1e-5), name
    with pytest.raises(InputError, match="its own training data"):
        measured(Bigrams(), resident, text, corpus=Input("corpus", "text", text.tokens))
