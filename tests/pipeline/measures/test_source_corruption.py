"""The cost of corrupted sources, on a known induction head and by hand arithmetic."""

import numpy as np
import pytest
import torch

from pipeline.engine.record import Record
from pipeline.errors import InputError
from pipeline.inputs import Input
from pipeline.inputs.natural_matches import natural_matches
from pipeline.measures import apply
from pipeline.measures.base import Context, Setting
from pipeline.measures.source_corruption import SourceCorruption, standard_error
from tests.pipeline.measures.measuring import FACTS, NO_WEIGHTS, measured

NAMES = ("natural_matches", "natural_matches_earlier", "natural_matches_last")


def versions(tokens: np.ndarray, length: int) -> list[Input]:
    made = natural_matches(tokens, length, seed=0)
    arrays = {"probe": made.probe, "source": made.source}
    parts = zip(
        NAMES,
        ("nothing", "earlier", "last"),
        (made.clean, made.earlier, made.last),
        strict=True,
    )
    return [
        Input(name, "natural_matches", tokens, arrays, {"replaced": replaced})
        for name, replaced, tokens in parts
    ]


def test_a_head_that_compares_one_token_needs_the_last_one_only(induction_pair):
    rng = np.random.default_rng(0)
    strings = np.stack([rng.permutation(np.arange(1, 20))[:8] for _ in range(40)])
    made = versions(np.concatenate([strings, strings], axis=1), 4)
    found = measured(
        SourceCorruption(), induction_pair, made[0], **{of.name: of for of in made[1:]}
    )
    # All attention to the right token, whose logit is 1 and all others 0; without the match it is
    # spread over all keys, among them the token itself.
    assert found["loss"] == pytest.approx(np.log(np.e + 19) - 1, abs=1e-5)
    assert found["earlier_cost"] == pytest.approx(0, abs=1e-5)
    assert found["last_cost"] > 0.8
    assert 0 < found["last_cost_error"] < 0.05


def test_costs_are_means_of_differences_at_the_probes():
    tokens, arrays = np.zeros((2, 4), dtype=int), {"probe": np.array([2, 1])}
    loss = (
        torch.tensor([[9.0, 9.0, 1.0], [9.0, 2.0, 9.0]]),
        torch.tensor([[0.0, 0.0, 1.5], [0.0, 3.5, 0.0]]),
        torch.tensor([[0.0, 0.0, 2.0], [0.0, 5.0, 0.0]]),
    )
    records = tuple(
        Record(Input(name, "natural_matches", tokens, arrays), one)
        for name, one in zip(NAMES, loss, strict=True)
    )
    setting = Setting(FACTS, records[0].input)
    found = apply.compute(SourceCorruption(), Context(setting, NO_WEIGHTS, records))
    # Differences 0.5 and 1.5, and 1 and 3: standard errors are half of their distance.
    expected = {"loss": 1.5, "earlier_cost": 1.0, "earlier_cost_error": 0.5,
                "last_cost": 2.0, "last_cost_error": 1.0}  # fmt: skip
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected)
    assert np.isnan(standard_error(np.array([1.0])))


def test_inputs_that_are_not_versions_of_each_other_are_refused():
    clean, earlier, last = versions(np.tile(np.arange(12), (3, 2)), 4)
    for others in (
        {NAMES[1]: last, NAMES[2]: last},
        {NAMES[1]: earlier, NAMES[2]: clean},
        {NAMES[1]: earlier, NAMES[2]: versions(np.tile(np.arange(12), (5, 2)), 4)[2]},
    ):
        with pytest.raises(InputError, match="with a corrupted source"):
            SourceCorruption().check(Setting(FACTS, clean, others))
