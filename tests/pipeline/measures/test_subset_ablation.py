"""Ablation of subsets of heads against models without those heads."""

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.inputs import Input
from pipeline.measures import apply
from pipeline.measures.base import Setting
from pipeline.measures.head_ablation import HeadAblation
from pipeline.measures.mean_ablation import MeanAblation
from pipeline.measures.subset_ablation import SubsetAblation
from tests.pipeline.measures.ablating import blocks, of_repeats, random_resident, without
from tests.pipeline.measures.measuring import measured

HEADS = ((1, 3), (0, 1), (1, 0))


@pytest.fixture(scope="module")
def resident():
    return random_resident()


def test_every_subset_is_a_model_without_the_output_weights_of_its_heads(resident):
    made = blocks(resident)
    found = measured(SubsetAblation(heads=HEADS), resident, made)
    assert found["loss"].shape == found["repeated_loss"].shape == (8,)
    for subset in range(8):
        removed = [head for i, head in enumerate(HEADS) if f"{subset:03b}"[2 - i] == "1"]
        change = without(resident, made, *removed)
        assert found["loss"][subset] == pytest.approx(change.mean(), abs=1e-5)
        assert found["repeated_loss"][subset] == pytest.approx(of_repeats(change, made), abs=1e-5)
    assert found["loss"][0] == 0 and np.abs(found["loss"][1:]).min() > 1e-4
    setting = Setting(resident.facts, made)
    np.testing.assert_array_equal(
        apply.coordinates(SubsetAblation(heads=HEADS), setting)["subset"], np.arange(8)
    )


@pytest.mark.parametrize(("to", "kind"), [("zero", HeadAblation), ("mean", MeanAblation)])
def test_one_head_and_all_together_are_as_in_the_ablation_of_heads(resident, to, kind):
    made = blocks(resident)
    found = measured(SubsetAblation(heads=HEADS, ablated_to=to), resident, made)
    single = measured(kind(heads=HEADS), resident, made)
    for name in ("loss", "repeated_loss"):
        alone = [single[name][head] for head in HEADS]
        np.testing.assert_allclose(found[name][[1, 2, 4]], alone, atol=1e-6)
        assert found[name][7] == pytest.approx(float(single[f"together_{name}"]), abs=1e-6)


def test_without_heads_a_small_model_is_ablated_and_a_large_one_refused(resident):
    setting = Setting(resident.facts, blocks(resident))
    assert len(SubsetAblation().passes(setting)) == 2**8
    large = Setting(random_resident(num_hidden_layers=3).facts, blocks(resident))
    with pytest.raises(InputError, match=r"12 heads \(all of the model.*expected 1 to 8"):
        apply.check(SubsetAblation(), large)
    with pytest.raises(InputError, match="0 heads, expected 1 to 8"):
        apply.check(SubsetAblation(heads=()), setting)
    with pytest.raises(InputError, match=r"head \[1, 0\] is given twice"):
        apply.check(SubsetAblation(heads=((1, 0), (0, 0), (1, 0))), setting)
    with pytest.raises(InputError, match=r"no head \[2, 0\]"):
        apply.check(SubsetAblation(heads=((2, 0),)), setting)


def test_the_loss_of_repeats_is_undefined_without_repeats_and_it_is_said(resident):
    text = Input("text", "text", np.random.default_rng(0).integers(0, 64, (2, 9)))
    found = measured(SubsetAblation(heads=((1, 0),)), resident, text)
    assert np.isnan(found["repeated_loss"]).all() and np.isfinite(found["loss"]).all()
    said = apply.why_undefined(SubsetAblation(heads=((1, 0),)), Setting(resident.facts, text))
    assert said == "repeated_loss: NaN, because input 'text' has no repeated random tokens"
