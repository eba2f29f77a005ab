"""Multiplication mod a prime p is addition of discrete logarithms mod p - 1."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy import cos, pi

from pipeline.engine.record import Record
from pipeline.inputs import Input, modular
from pipeline.measures.excluded_loss import ExcludedLoss
from pipeline.measures.key_frequencies import KeyFrequencies
from pipeline.measures.logit_waves import LogitWaves
from pipeline.measures.lottery_ticket import LotteryTicket
from pipeline.measures.modular_addition import ModularAddition
from pipeline.measures.neuron_clusters import NeuronClusters
from pipeline.measures.restricted_loss import RestrictedLoss
from pipeline.models.organism import OrganismForCausalLM
from tests.pipeline.measures.measuring import of_record
from tests.pipeline.modular_organisms import config, measured, random_model, table_input

P, ROOT = 11, 2
POWERS = [ROOT**i % P for i in range(P - 1)]
MEASURES = (
    ModularAddition(), RestrictedLoss(), ExcludedLoss(), KeyFrequencies(), NeuronClusters(),
    LogitWaves(), LotteryTicket(),
)  # fmt: skip


@torch.no_grad()
def adding() -> OrganismForCausalLM:
    """Return a random model of p - 1 residues whose one key frequency is 3."""
    model = random_model(P - 1)
    wave = torch.cos(2 * pi * 3 / (P - 1) * torch.arange(P - 1).double())
    model.lm_head.weight[: P - 1] += 0.5 * wave[:, None]
    return model


@torch.no_grad()
def multiplying(adder: OrganismForCausalLM) -> OrganismForCausalLM:
    """Return a model that does with g^i what another does with i; 0 is embedded at random."""
    torch.manual_seed(1)
    made = OrganismForCausalLM(config(P)).double().eval().requires_grad_(False)
    kept = {name: value for name, value in adder.state_dict().items()
            if name not in ("model.embed_tokens.weight", "lm_head.weight")}  # fmt: skip
    made.load_state_dict(kept, strict=False)
    for mine, other in ((made.model.embed_tokens, adder.model.embed_tokens),
                        (made.lm_head, adder.lm_head)):  # fmt: skip
        mine.weight[[*POWERS, P]] = other.weight
    return made


def tables() -> tuple[Input, Input]:
    """Return the table of logarithms mod 10, and that of products mod 11, with the same split."""
    added, multiplied = table_input(P - 1, "add"), table_input(P, "multiply")
    is_train = multiplied.arrays["is_train"].copy().reshape(P, P)
    is_train[np.ix_(POWERS, POWERS)] = added.arrays["is_train"].reshape(P - 1, P - 1)
    arrays = {**multiplied.arrays, "is_train": is_train.ravel()}
    return added, replace(multiplied, arrays=arrays)


@pytest.mark.parametrize("measure", MEASURES, ids=lambda one: one.name)
def test_measures_are_those_of_the_sum_of_logarithms(measure):
    adder = adding()
    added, multiplied = tables()
    expected = measured(measure, adder, added)
    found = measured(measure, multiplying(adder), multiplied)
    for name in expected.keys() - {"train_loss", "test_loss"}:
        np.testing.assert_allclose(found[name], expected[name], 1e-9, 1e-12, err_msg=name)
        assert measure.name == "neuron_clusters" or np.isfinite(found[name]).any(), name


def test_train_and_test_loss_are_of_all_pairs_and_residues():
    _, multiplied = tables()
    model = multiplying(adding())
    logits = model(torch.from_numpy(multiplied.tokens)).logits[:, -1, :P]
    answers = torch.from_numpy(multiplied.arrays["labels"])
    loss = torch.nn.functional.cross_entropy(logits, answers, reduction="none").numpy()
    is_train = multiplied.arrays["is_train"]
    found = measured(ModularAddition(), model, multiplied)
    assert found["train_loss"] == pytest.approx(loss[is_train].mean())
    assert found["test_loss"] == pytest.approx(loss[~is_train].mean())


def test_waves_of_logarithms_explain_all_logits_that_consist_of_them():
    log = {x: i for i, x in enumerate(POWERS)}
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(P * P, P + 1))
    for a in log:
        for b in log:
            for c in log:
                d = log[a] + log[b] - log[c]
                logits[a * P + b, c] = 3 + 2 * cos(2 * pi * d / 10) - 0.5 * cos(pi * d)
    table = table_input(P, "multiply")
    found = of_record(LogitWaves(), Record(table, logits={-1: torch.tensor(logits)}))
    np.testing.assert_allclose(found["coefficient"], [2, 0, 0, 0, -0.5], atol=1e-12)
    assert found["variance_explained"].sum() == pytest.approx(1, abs=1e-12)
    # 2 cos has mean square 2, and cos(pi d) / 2 has 1/4.
    np.testing.assert_allclose(found["variance_explained"], [8 / 9, 0, 0, 0, 1 / 9], atol=1e-12)


def test_products_mod_a_composite_have_no_logarithms():
    p = 9
    model, table = random_model(p), table_input(p, "multiply")
    assert np.isnan(measured(LogitWaves(), model, table)["coefficient"]).all()
    reference = measured(ModularAddition(), model, table)
    assert np.isnan(reference["restricted_loss"])
    assert modular.table(p, "multiply")[1].max() == 8
