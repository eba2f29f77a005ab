"""Ablation by paths: on a pair that composes by keys, and against other measures."""

import numpy as np
import pytest
import torch

from pipeline.inputs import Input
from pipeline.measures import apply
from pipeline.measures.base import Setting
from pipeline.measures.head_ablation import HeadAblation
from pipeline.measures.path_ablation import PATHS, PathAblation
from pipeline.measures.pattern_preserving_ablation import PatternPreservingAblation
from tests.pipeline.measures.ablating import blocks, random_resident
from tests.pipeline.measures.measuring import measured


def test_all_paths_are_the_ablation_and_values_that_with_patterns_kept():
    resident = random_resident()
    made = blocks(resident)
    found = measured(PathAblation(), resident, made)
    for path, kind in (("kqv", HeadAblation), ("v", PatternPreservingAblation)):
        expected = measured(kind(), resident, made)
        for name in ("loss", "repeated_loss"):
            effect = found[name][..., PATHS.index(path)]
            np.testing.assert_allclose(effect, expected[name], atol=1e-5)
    assert np.isnan(found["together_loss"]).all()
    some = ((0, 1), (0, 2), (1, 0))
    together = measured(PathAblation(heads=some), resident, made)
    expected = measured(HeadAblation(heads=some), resident, made)
    for name in ("together_loss", "together_repeated_loss"):
        assert together[name][-1] == pytest.approx(float(expected[name]), abs=1e-5)
    np.testing.assert_allclose(together["loss"][0, 2], found["loss"][0, 2], atol=1e-6)
    # Heads of the last layer reach the logits directly alone; those of the first differ by path.
    last, first = found["loss"][1], found["loss"][0]
    np.testing.assert_allclose(last, last[:, :1].repeat(8, axis=1), atol=1e-5)
    assert (first.std(axis=1) > 1e-4).all()


@pytest.mark.parametrize("letter", ["k", "q"])
def test_an_induction_pair_composes_by_the_path_it_was_built_with(hand_built, letter):
    """Swapped, queries read the previous token: then heads attend where it equals the key."""
    state = {name: w.clone() for name, w in hand_built.weights.items()}
    state["model.layers.1.self_attn.o_proj.weight"][:, 40:] = 0  # without anti-induction
    if letter == "q":
        attention = "model.layers.1.self_attn.{}_proj.weight"
        q, k = (state[attention.format(x)].clone() for x in "qk")
        state[attention.format("q")], state[attention.format("k")] = k, q
    hand_built.swap(state)
    made = blocks(hand_built)
    found = measured(PathAblation(heads=((0, 0),)), hand_built, made)
    effect = dict(zip(PATHS, found["loss"][0, 0], strict=True))
    total = effect["kqv"]
    assert abs(total) > 0.02
    for path, value in effect.items():
        expected = total if letter in path else 0
        assert value == pytest.approx(expected, abs=1e-5), path
    assert np.isnan(found["loss"]).sum() == 3 * len(PATHS)


def test_values_alone_carry_what_a_copying_head_reads_from_an_earlier_one(hand_built):
    """A later head without scores attends uniformly: the earlier one is read by its values."""
    state = {name: w.clone() for name, w in hand_built.weights.items()}
    for kind in "qk":
        state[f"model.layers.1.self_attn.{kind}_proj.weight"][:] = 0
    values = state["model.layers.1.self_attn.v_proj.weight"]
    values[:20, :] = 0
    values[:20, 37:57] = torch.eye(20)  # head 0 of layer 1 reads PREVIOUS
    hand_built.swap(state)
    found = measured(PathAblation(heads=((0, 0),)), hand_built, blocks(hand_built))
    effect = dict(zip(PATHS, found["loss"][0, 0], strict=True))
    assert abs(effect["v"]) > 1e-3
    for path, value in effect.items():
        assert value == pytest.approx(effect["v"] if "v" in path else 0, abs=1e-6), path


def test_the_paths_are_the_coordinate_and_repeats_are_needed():
    resident = random_resident()
    text = Input("text", "text", np.random.default_rng(0).integers(0, 64, (2, 9)))
    setting = Setting(resident.facts, text)
    measure = PathAblation(heads=((0, 2),))
    assert list(apply.coordinates(measure, setting)["through"]) == list(PATHS)
    assert len(measure.passes(setting)) == 1 + 8 + 8
    said = apply.why_undefined(measure, setting)
    assert said == (
        "repeated_loss, together_repeated_loss: NaN, because input 'text' has no repeated random "
        "tokens"
    )
    assert apply.why_undefined(PathAblation(), setting).endswith("because `heads` is not given")
    assert np.isnan(measured(measure, resident, text)["repeated_loss"]).all()
