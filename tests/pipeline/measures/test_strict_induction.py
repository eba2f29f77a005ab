"""Heads restricted to where induction looks: rules, shares, and a known induction head."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.analysis.inputs import make_input
from pipeline.config import RepeatedInput
from pipeline.errors import InputError
from pipeline.inputs import Input
from pipeline.measures.base import Setting
from pipeline.measures.strict_induction import (
    AfterMatch,
    StrictInduction,
    counted_repeats,
    share,
)
from tests.pipeline.measures.measuring import FACTS, measured

TOKENS = np.random.default_rng(0).integers(5, size=(3, 20))


@pytest.mark.parametrize("within", [1, 3])
def test_allowed_keys_are_those_that_a_search_finds(within):
    queries, keys = range(6, 20), range(2, 17)
    found = AfterMatch(within).allowed(torch.from_numpy(TOKENS), queries, keys)
    for s, row in enumerate(TOKENS.tolist()):
        for a, i in enumerate(queries):
            for b, j in enumerate(keys):
                expected = any(
                    j - 1 - k >= 0 and row[j - 1 - k] == row[i - k] for k in range(within)
                )
                assert found[s, a, b] == expected


def test_padding_matches_nothing():
    marked = torch.tensor([[-1, -2, 4, -4, 4]])
    found = AfterMatch(2).allowed(marked, range(5), range(5))[0].tril()
    assert found.nonzero().tolist() == [[4, 3]]


def test_a_strict_induction_head_loses_nothing(induction_pair):
    spec = RepeatedInput(block_length=8, sequences=8, vary=False)
    made = make_input("repeated", spec, "", induction_pair.facts)
    for replaced_by in ("zero", "mean"):
        measure = StrictInduction(heads=((1, 0),), replaced_by=replaced_by)
        found = measured(measure, induction_pair, made)
        assert found["ablated_loss"] - found["clean_loss"] > 0.5
        assert found["strict_share"] == pytest.approx(1, abs=0.2)
    # With zero in place of the rest, the rest at repeated tokens must be nothing.
    zero = measured(StrictInduction(heads=((1, 0),), replaced_by="zero"), induction_pair, made)
    assert zero["strict_share"] == pytest.approx(1, abs=1e-4)
    assert zero["strict_loss"] == pytest.approx(zero["clean_loss"], abs=1e-4)


def test_a_head_that_looks_elsewhere_loses_all(induction_pair):
    spec = RepeatedInput(block_length=8, sequences=8, vary=False)
    made = make_input("repeated", spec, "", induction_pair.facts)
    found = measured(StrictInduction(heads=((0, 0),), replaced_by="zero"), induction_pair, made)
    # The previous-token head attends to the key before its query, which no match precedes.
    assert found["strict_share"] == pytest.approx(0, abs=1e-4)


def test_heads_above_the_first_layer_are_restricted_together_by_default():
    made = Input("text", "text", TOKENS)
    passes = StrictInduction(window=2).passes(Setting(FACTS, made))
    above = tuple((layer, head) for layer in range(1, FACTS.n_layers) for head in range(3))
    assert [one.change and one.change.heads for one in passes] == [None, above, above, above]
    assert [one.change.to.rule.within for one in passes[2:]] == [1, 2]


def test_a_model_of_one_layer_has_no_such_heads():
    facts = replace(FACTS, n_layers=1)
    with pytest.raises(InputError, match="no layer above its first"):
        StrictInduction().check(Setting(facts, Input("text", "text", TOKENS)))


def test_natural_repeats_count_where_the_same_token_follows_again():
    row = [1, 2, 3, 9, 1, 2, 3, 8, 2, 3, 8, 5]
    counted = counted_repeats(Input("text", "text", np.array([row])))
    # After "1 2" comes 3 again; after "2 3" 8 where 9 came, then 8 again; "3 8" is followed by 5.
    assert np.flatnonzero(counted[0]).tolist() == [5, 9]


def test_the_share_is_that_of_the_restored_loss():
    assert share(np.array(3.0), np.array(1.5), np.array(1.0)) == 0.75
    assert np.isnan(share(np.array(1.0), np.array(2.0), np.array(1.0)))
    assert np.isnan(share(np.array(np.nan), np.array(2.0), np.array(1.0)))
