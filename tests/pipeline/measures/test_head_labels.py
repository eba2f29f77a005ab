"""Copying from head outputs, labels by rule against nulls, and their shared passes."""

import numpy as np
import pytest
import torch

import pipeline.analysis.contexts
from pipeline import Analysis, analyze, open_run
from pipeline.analysis.inputs import make_input
from pipeline.config import RepeatedInput
from pipeline.engine.forward import run
from pipeline.inputs import Input
from pipeline.measures import apply
from pipeline.measures.base import Context, Setting
from pipeline.measures.behavioural_copying import BehaviouralCopying
from pipeline.measures.head_labels import HeadLabels
from pipeline.measures.head_scores import HeadScores
from pipeline.models.circuits import circuits
from pipeline.models.organism import OrganismForCausalLM
from pipeline.models.organism_config import OrganismConfig
from pipeline.models.resident import Resident


def measured(measure, resident, setting):
    records = tuple(
        run(resident, {setting.input.name: setting.input, **setting.others}[wanted.input], wanted)
        for wanted in measure.passes(setting)
    )
    return apply.compute(measure, Context(setting, resident.weights, records))


def repeated(resident, **options) -> Input:
    return make_input("repeated", RepeatedInput(block_length=8, **options), "", resident.facts)


def test_every_hand_written_head_gets_its_label_and_no_other(hand_built):
    setting = Setting(hand_built.facts, repeated(hand_built))
    found = measured(HeadLabels(), hand_built, setting)
    expected = {"previous_token": (0, 0), "induction": (1, 0), "anti_induction": (1, 1)}
    for label in ("previous_token", "current_token", "sink", "duplicate_token", "induction",
                  "anti_induction"):  # fmt: skip
        wanted = np.zeros((2, 2))
        if label in expected:
            wanted[expected[label]] = 1
        np.testing.assert_array_equal(found[label], wanted, err_msg=label)


def test_the_threshold_is_of_what_exceeds_the_null(hand_built):
    setting = Setting(hand_built.facts, repeated(hand_built))
    scores = measured(HeadScores(), hand_built, setting)
    # The previous-token head scores 1 where uniform attention has 1 / (i + 1) on average.
    excess = float(scores["previous_token"][0, 0] - scores["uniform_null"])
    assert 0.7 < excess < 0.9
    for threshold, count in ((excess - 0.01, 1), (excess + 0.01, 0)):
        labels = measured(HeadLabels(threshold=threshold), hand_built, setting)
        assert labels["previous_token"].sum() == count


def test_labels_without_a_null_are_nan_and_not_0(hand_built):
    setting = Setting(hand_built.facts, repeated(hand_built, vary=False))
    found = measured(HeadLabels(), hand_built, setting)
    for label in ("induction", "anti_induction", "duplicate_token"):
        assert np.isnan(found[label]).all()
    assert found["previous_token"][0, 0] == 1
    assert "one length" in apply.why_undefined(HeadLabels(), setting)


def test_copying_is_the_attended_tokens_logit_weighted_by_attention():
    torch.manual_seed(0)
    config = OrganismConfig(hidden_size=32, num_attention_heads=4, bos_token_id=0)
    resident = Resident(config)
    state = OrganismForCausalLM(config).state_dict()
    resident.swap({name: w + 0.2 * torch.randn_like(w) for name, w in state.items()})
    made = make_input("repeated", RepeatedInput(block_length=6, sequences=3), "", resident.facts)
    found = measured(BehaviouralCopying(), resident, Setting(resident.facts, made))

    config._attn_implementation = "eager"
    plain = OrganismForCausalLM(config).eval()
    plain.load_state_dict(dict(resident.weights))
    streams: list[torch.Tensor] = []
    for layer in plain.model.layers:
        layer.input_layernorm.register_forward_hook(lambda m, args, out: streams.append(out))
    plain.model.norm.register_forward_pre_hook(lambda m, args: streams.append(args[0]))
    with torch.no_grad():
        patterns = plain(torch.from_numpy(made.tokens), output_attentions=True).attentions
    model = circuits(resident.weights)
    assert model is not None
    gain = resident.weights["model.layers.1.input_layernorm.weight"]
    heads, final = model.layer(1), streams[2]
    scale = 1 / (final.var(-1, unbiased=False) + 1e-5).sqrt()
    W_U = (model.W_U - model.W_U.mean(1, keepdim=True)).detach()
    for h in range(4):
        values = (streams[1] / gain) @ heads.W_V[h]
        out = patterns[1][:, h] @ values @ heads.W_O[h]
        logits = ((out - out.mean(-1, keepdim=True)) * scale[..., None]) @ W_U
        score, null, queries = 0.0, 0.0, 0
        for s in range(3):
            for i in range(1, 13):
                queries += 1
                for j in range(1, i + 1):
                    p = patterns[1][s, h, i, j]
                    score += p * logits[s, i, made.tokens[s, j]]
                    null += p * logits[s, i, made.tokens[(s + 1) % 3, j]]
        assert found["score"][1, h] == pytest.approx(float(score) / queries, rel=1e-3, abs=1e-5)
        assert found["null"][1, h] == pytest.approx(float(null) / queries, rel=1e-3, abs=1e-5)


def test_measures_on_one_input_share_one_pass(make_run, tmp_path, monkeypatch):
    passes = []

    def counted(resident, made, wanted, *options):
        passes.append(wanted.input)
        return run(resident, made, wanted, *options)

    monkeypatch.setattr(pipeline.analysis.contexts, "run", counted)
    on_repeated = ["head_scores", "lag_profile", "sink", "behavioural_copying", "direct_logits",
                   "logit_lens", "residual_norm", "head_labels"]  # fmt: skip
    analysis = Analysis(
        checkpoints=str(make_run(steps=(0, 3))),
        store=str(tmp_path / "s.zarr"),
        inputs={"repeated": RepeatedInput(block_length=8), "shuffled": RepeatedInput(
            block_length=8, shuffled=True)},
        measures={name: {} for name in [*on_repeated, "head_scores.shuffled", "copying"]},
    )  # fmt: skip
    summary = analyze(analysis)
    assert not summary.failed
    assert sorted(passes) == ["repeated", "repeated", "shuffled", "shuffled"]
    tree = open_run(analysis.store)
    assert tree["head_labels"]["induction"].dims == ("step", "layer", "head")
