"""Changes of direct effects against models without a head, and in a pair with a planted backup."""

import numpy as np
import pytest
import torch

from pipeline.errors import InputError
from pipeline.inputs import Input
from pipeline.measures import apply
from pipeline.measures.backup import Backup
from pipeline.measures.base import Setting
from pipeline.measures.direct_logits import DirectLogits, counted_predictions
from tests.pipeline.editing import outputs
from tests.pipeline.hand_built import D_HEAD, OUTPUT, TOKEN, VOCABULARY
from tests.pipeline.measures.ablating import blocks, plain, random_resident
from tests.pipeline.measures.measuring import measured

HEADS = ((1, 2), (0, 1), (2, 0))


@pytest.fixture(scope="module")
def resident():
    return random_resident(num_hidden_layers=3)


def effects(model, made: Input, scale_of=None) -> tuple[np.ndarray, float]:
    """Return each head's mean contribution to the correct logit, and that logit, by definition.

    scale_of: the model with whose deviation of the stream the final LayerNorm divides.
    """
    ids = torch.from_numpy(made.tokens)
    counted = torch.from_numpy(counted_predictions(made))
    with torch.no_grad():
        z = outputs(model, ids)
        stream, scale_stream = (_final_stream(one, ids) for one in (model, scale_of or model))
        deviation = (scale_stream.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        W_U = model.lm_head.weight - model.lm_head.weight.mean(0)

        def contribution(part: torch.Tensor) -> float:
            normed = (part - part.mean(-1, keepdim=True)) / deviation * model.model.norm.weight
            logits = (normed * W_U[torch.roll(ids, -1, 1)]).sum(-1)
            return float(logits[:, :-1][counted].double().mean())

        heads = [
            [contribution(z[at][:, :, h] @ _output(model, at)[:, 8 * h : 8 * h + 8].T)
             for h in range(4)]
            for at in range(3)
        ]  # fmt: skip
        return np.array(heads), contribution(stream)


def _output(model, layer: int) -> torch.Tensor:
    return model.model.layers[layer].self_attn.o_proj.weight


def _final_stream(model, ids: torch.Tensor) -> torch.Tensor:
    kept: list[torch.Tensor] = []
    handle = model.model.norm.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    model(ids)
    handle.remove()
    return kept[0]


def test_changes_are_those_in_a_model_without_the_head(resident):
    made = blocks(resident)
    found = measured(Backup(heads=HEADS), resident, made)
    clean = plain(resident)
    before, logit = effects(clean, made)
    for i, head in enumerate(HEADS):
        removed = plain(resident, head)
        for scale, suffix in ((clean, ""), (removed, "_norm_free")):
            after, changed = effects(removed, made, scale)
            np.testing.assert_allclose(found[f"direct{suffix}"][i], after - before, atol=2e-5)
            assert found[f"logit{suffix}"][i] == pytest.approx(changed - logit, abs=2e-5)


def test_changes_are_of_later_heads_and_add_up_to_that_of_the_logit(resident):
    made = blocks(resident)
    found = measured(Backup(heads=HEADS), resident, made)
    own = measured(DirectLogits(), resident, made)["by_head"]
    for change, logit, (layer, head) in zip(found["direct"], found["logit"], HEADS, strict=True):
        assert change[layer, head] == pytest.approx(-own[layer, head], abs=1e-5)
        others = np.ones(4, dtype=bool)
        others[head] = False
        assert (change[:layer] == 0).all() and (change[layer, others] == 0).all()
        assert (np.abs(change[layer + 1 :]) > 1e-5).all()
        assert change.sum() == pytest.approx(logit, abs=1e-5)
    # The norm moves all heads, those that nothing else can reach too.
    assert (np.abs(found["direct_norm_free"]) > 1e-5).all()


def test_ablation_to_the_mean_takes_away_less(resident):
    made = blocks(resident)
    zero, mean = (measured(Backup(heads=HEADS, ablated_to=to), resident, made)
                  for to in ("zero", "mean"))  # fmt: skip
    tokens = torch.from_numpy(made.tokens)
    layer, head = HEADS[0]
    with torch.no_grad():
        z = outputs(plain(resident), tokens)[layer][:, :, head]
        constant = z.mean(dim=(0, 1)) @ _output(plain(resident), layer)[:, 16:24].T
        deviation = _final_stream(plain(resident), tokens).var(-1, correction=0) + 1e-5
    model = plain(resident)
    W_U = (model.lm_head.weight - model.lm_head.weight.mean(0)) * model.model.norm.weight
    scores = (constant - constant.mean()) @ W_U.T
    kept = scores[torch.roll(tokens, -1, 1)] / deviation.sqrt()
    kept = kept[:, :-1][torch.from_numpy(counted_predictions(made))].double().mean()
    lost = mean["direct"][0, layer, head] - zero["direct"][0, layer, head]
    assert lost == pytest.approx(float(kept.detach()), abs=1e-5)


def test_a_head_that_takes_over_rises_by_what_the_ablated_one_wrote(hand_built):
    """Without attention scores, layer 0's head 1 copies to OUTPUT, and one later head undoes it.

    It reads what the earlier one wrote, and subtracts its mean: without it, it subtracts nothing.
    """
    state = {name: torch.zeros_like(w) for name, w in hand_built.weights.items()}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        state[name] = hand_built.weights[name].clone()
    one = torch.eye(VOCABULARY)
    for layer, read, sign in ((0, TOKEN, 1.0), (1, OUTPUT, -1.0)):
        attention = f"model.layers.{layer}.self_attn"
        own = slice(D_HEAD, D_HEAD + VOCABULARY)
        state[f"{attention}.v_proj.weight"][own, read] = one
        state[f"{attention}.o_proj.weight"][OUTPUT, own] = sign * one
    hand_built.swap(state)
    made = blocks(hand_built)
    own = measured(DirectLogits(), hand_built, made)["by_head"]
    assert own[0, 1] > 0.005 > -0.005 > own[1, 1]
    found = measured(Backup(heads=((0, 1), (0, 0))), hand_built, made)
    expected = np.zeros((2, 2, 2))
    expected[0, 0, 1], expected[0, 1, 1] = -own[0, 1], -own[1, 1]
    np.testing.assert_allclose(found["direct"], expected, atol=1e-6)
    np.testing.assert_allclose(found["direct_norm_free"], expected, atol=1e-6)  # it has no norm
    np.testing.assert_allclose(found["logit"], [-own[0, 1] - own[1, 1], 0], atol=1e-6)


def test_the_ablated_heads_are_named_and_too_many_are_refused(resident):
    setting = Setting(resident.facts, blocks(resident))
    named = apply.coordinates(Backup(heads=HEADS), setting)["ablated"]
    assert list(named) == ["L1H2", "L0H1", "L2H0"]
    with pytest.raises(InputError, match="measure 'backup': 12 heads"):
        apply.check(Backup(), setting)
