"""Measures of recurrent and hybrid models: those of heads are refused, or NaN in some layers."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.engine import forward
from pipeline.engine.finite import caused_by_the_model, is_finite
from pipeline.engine.form import unmet_assumptions
from pipeline.engine.record import Record
from pipeline.errors import InputError
from pipeline.measures import apply, registry
from pipeline.measures.base import Context, Measure, Setting
from pipeline.measures.bigrams import Bigrams
from pipeline.measures.copying import Copying
from pipeline.measures.corpus_agreement import CorpusAgreement
from pipeline.measures.direct_logits import DirectLogits
from pipeline.measures.head_ablation import HeadAblation
from pipeline.measures.head_labels import HeadLabels
from pipeline.measures.head_scores import HeadScores
from pipeline.measures.logit_lens import LogitLens
from pipeline.measures.qk_prefix_matching import QKPrefixMatching
from pipeline.measures.strict_induction import StrictInduction
from pipeline.measures.token_loss import TokenLoss
from pipeline.models.families import RECURRENT
from pipeline.models.resident import Resident
from pipeline.models.weights import ModelWeights
from pipeline.schema import Values
from tests.pipeline.engine.test_recurrent import losses_of, matrices_of, resident_of
from tests.pipeline.measures.measuring import measured
from tests.pipeline.measures.test_nonfinite import ON_TEXT, PARAMETERS, inputs_for
from tests.pipeline.recurrent_families import READ, config_of, plain_model

HEADS = {"head", "head_from", "head_to"}
SILENT = [0, 2]
JAMBA = READ["jamba"].attending
PLACES = {"layer", "layer_from", "layer_to"}

# The heads of parameters that name some, in layers of the hybrid models that attend.
ATTENDING: dict[str, dict[str, Any]] = {
    name: given | ({"heads": ((1, 1), (3, 0))} if "heads" in given else {})
    for name, given in PARAMETERS.items()
}
MEASURES = {name: registry()[name](**ATTENDING.get(name, {})) for name in ON_TEXT}


@pytest.fixture(scope="module")
def mamba() -> Resident:
    return resident_of(plain_model(config_of("mamba")))


@pytest.fixture(scope="module")
def jamba() -> Resident:
    return resident_of(plain_model(config_of("jamba")))


def setting_of(measure: Measure, resident: Resident) -> Setting:
    inputs = inputs_for(resident)
    others = {name: inputs[name] for name in measure.other_inputs}
    return Setting(resident.facts, inputs.get(measure.default_input or ""), others)


def computed(measure: Measure, resident: Resident) -> dict[str, np.ndarray]:
    setting = setting_of(measure, resident)
    values = measured(measure, resident, setting.own_input, **setting.others)
    return {name: np.asarray(value) for name, value in values.items()}


def test_each_measure_says_whether_it_needs_heads() -> None:
    for name, kind in registry().items():
        every = all(HEADS & set(variable.dims) for variable in kind.variables)
        assert kind.needs_heads or not every, name


@pytest.mark.parametrize("name", MEASURES)
def test_without_heads_a_measure_is_refused_by_name_or_computed(name: str, mamba: Resident) -> None:
    measure = MEASURES[name]
    if measure.needs_heads:
        with pytest.raises(InputError) as refused:
            computed(measure, mamba)
        assert str(refused.value) == (
            f"measure {name!r} needs attention heads, and this model (MambaForCausalLM) has none: "
            "leave it out"
        )
        return
    for variable, values in computed(measure, mamba).items():
        assert values.size == 0 or np.isfinite(values).all(), variable


def test_a_measure_of_ones_own_that_asks_for_attention_is_refused_too(mamba: Resident) -> None:
    class Own(HeadScores):
        """Scores of heads, by a class that does not say that it needs any."""

        needs_heads = False

    with pytest.raises(InputError, match="needs attention heads"):
        computed(Own(), mamba)


@pytest.mark.parametrize("name", [n for n, one in MEASURES.items() if one.needs_heads])
def test_numbers_of_heads_are_nan_in_the_layers_without_them(name: str, jamba: Resident) -> None:
    measure = MEASURES[name]
    values, of_heads = computed(measure, jamba), []
    for variable in measure.variables:
        dims = variable.dims[1:]
        numbers = values[variable.name]
        for axis in (i for i, dim in enumerate(dims) if dim in PLACES):
            there = np.take(numbers, SILENT, axis)
            empty = there == -1 if variable.dtype.startswith("int") else np.isnan(there)
            assert empty.all(), variable.name
            of_heads.append(variable.name)
    said = apply.why_undefined(measure, setting_of(measure, jamba))
    listed = f"{', '.join(dict.fromkeys(of_heads))}: NaN in layers 0, 2, without attention heads"
    assert listed in said if of_heads else "without attention heads" not in said


def test_scores_of_heads_are_those_of_the_eager_patterns(jamba: Resident) -> None:
    model, found = plain_model(config_of("jamba")), computed(HeadScores(), jamba)
    made = setting_of(HeadScores(), jamba).input
    p = matrices_of(model, torch.from_numpy(made.tokens), JAMBA).double().numpy()
    previous: list[np.ndarray] = []
    following: list[np.ndarray] = []
    for row, (tokens, block) in enumerate(
        zip(made.tokens.tolist(), made.arrays["block_length"].tolist(), strict=True)
    ):
        first = int(made.attributes["has_bos"])
        previous += [p[:, row, :, i, i - 1] for i in range(first + 1, first + block)]
        later = range(first + block, first + 2 * block)
        assert [tokens[i] for i in later] == [tokens[i - block] for i in later]
        following += [p[:, row, :, i, i - block + 1] for i in later]
    layers = list(JAMBA)
    np.testing.assert_allclose(found["previous_token"][layers], np.mean(previous, 0), atol=1e-6)
    np.testing.assert_allclose(found["induction"][layers], np.mean(following, 0), atol=1e-6)


def test_labels_and_correlations_over_heads_leave_out_other_layers(jamba: Resident) -> None:
    labels = computed(HeadLabels(), jamba)
    assert set(np.unique(labels["current_token"][list(JAMBA)])) <= {0.0, 1.0}
    agreement = computed(CorpusAgreement(), jamba)
    here, there = (agreement[of][:, list(JAMBA)] for of in ("here", "there"))
    for k, (a, b) in enumerate(zip(here, there, strict=True)):
        assert agreement["correlation"][k] == pytest.approx(np.corrcoef(a.flat, b.flat)[0, 1])
        assert agreement["difference"][k] == pytest.approx(np.abs(a - b).mean())


def test_heads_of_layers_without_attention_cannot_be_named(jamba: Resident) -> None:
    with pytest.raises(InputError, match="of the model's layers only 1, 3 attend: correct `heads`"):
        computed(HeadAblation(heads=((2, 0),)), jamba)
    effects = computed(HeadAblation(early_token=2, late_token=5), jamba)["loss"]
    assert np.isfinite(effects[list(JAMBA)]).all() and np.isnan(effects[SILENT]).all()
    assert np.isfinite(computed(StrictInduction(), jamba)["ablated_loss"])


def test_matrices_of_a_hybrid_model_are_read_where_its_layers_attend(jamba: Resident) -> None:
    state = {name: w.double() for name, w in jamba.weights.items()}
    copying = computed(Copying(), jamba)["ov_copying"]
    W_E, final = state["model.embed_tokens.weight"], state["model.final_layernorm.weight"]
    for layer in JAMBA:
        prefix = f"model.layers.{layer}"
        gain = state[f"{prefix}.input_layernorm.weight"]
        W_V = (state[f"{prefix}.self_attn.v_proj.weight"] * gain)[:8]  # of heads 0 and 1
        W_O = state[f"{prefix}.self_attn.o_proj.weight"][:, :8]  # of head 0
        through = W_E @ W_V.T @ W_O.T @ (state["lm_head.weight"] * final).T
        values = torch.linalg.eigvals(through)
        score = float(values.real.sum() / values.abs().sum())
        assert copying[layer, 0] == pytest.approx(score, abs=1e-4)
    partners = computed(QKPrefixMatching(), jamba)
    assert set(partners["partner_layer"][3]) == {1} and (partners["partner_layer"][1] == -1).all()
    assert np.isfinite(partners["score"][3]).all()


def test_parts_of_a_logit_sum_to_it_in_a_hybrid_model(jamba: Resident) -> None:
    found = computed(DirectLogits(), jamba)
    parts = np.nansum(found["by_head"]) + found["rest"].sum() + found["embedding"] + found["bias"]
    assert parts == pytest.approx(float(found["logit"]), abs=1e-4)
    assert np.isnan(found["by_head"][SILENT]).all()


@pytest.mark.parametrize("family", RECURRENT)
def test_the_described_families_have_the_form_they_are_said_to_have(family: str) -> None:
    assert unmet_assumptions(config_of(family)) == {}


@pytest.mark.parametrize("family", ["mamba", "xlstm", "rwkv", "recurrent_gemma", "falcon_h1"])
def test_the_lens_is_the_models_own_norm_and_unembedding(family: str) -> None:
    model = plain_model(config_of(family))
    resident = resident_of(model)
    found = computed(LogitLens(), resident)["loss"]
    made = setting_of(LogitLens(), resident).input
    tokens = torch.from_numpy(made.tokens)
    counted = computed_mask(made.tokens, made.arrays["block_length"])
    assert found[-1] == pytest.approx(losses_of(model, tokens).numpy()[counted].mean(), abs=1e-5)
    with torch.inference_mode():
        stream = model.get_input_embeddings()(tokens)
        if family == "recurrent_gemma":
            stream = stream * 32**0.5
        last = [part for name, part in model.named_modules() if name.endswith(FINAL_NORMS)][-1]
        logits = model.get_output_embeddings()(last(stream)) * {"falcon_h1": 0.4}.get(family, 1)
        cap = {"xlstm": 30, "recurrent_gemma": 30}.get(family)
        logits = logits if cap is None else cap * torch.tanh(logits / cap)
        flat = logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
        first = nn.functional.cross_entropy(*flat, reduction="none").view(len(tokens), -1)
    assert found[0] == pytest.approx(first.numpy()[counted].mean(), abs=1e-5)


FINAL_NORMS = ("norm_f", "out_norm", "ln_out", "final_norm", "final_layernorm")


def computed_mask(tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the predictions of repeated tokens, which an earlier block determines."""
    made = np.zeros((tokens.shape[0], tokens.shape[1] - 1), dtype=bool)
    for row, (of, block) in enumerate(zip(tokens.tolist(), lengths.tolist(), strict=True)):
        for t in range(len(of) - 1):
            made[row, t] = t >= block and of[t] == of[t - block] and of[t + 1] == of[t + 1 - block]
    return made


def test_bigrams_of_a_recurrent_model_take_its_direct_path(mamba: Resident) -> None:
    found, setting = computed(Bigrams(), mamba), setting_of(Bigrams(), mamba)
    model = plain_model(config_of("mamba"))
    loss = computed(TokenLoss(**PARAMETERS["token_loss"]), mamba)["mean"]
    assert loss == pytest.approx(
        float(losses_of(model, torch.from_numpy(setting.input.tokens)).mean())
    )
    assert all(np.isfinite(values) for values in found.values())


@pytest.mark.parametrize("name", ["attention_patterns", "lag_profile", "sink", "copying"])
def test_layers_without_heads_are_not_taken_for_damage(name: str, jamba: Resident) -> None:
    measure = MEASURES[name]
    setting = setting_of(measure, jamba)
    records = tuple(forward.run(jamba, setting.input, one) for one in measure.passes(setting))

    def compute(given: tuple[Record, ...], weights: ModelWeights) -> Values:
        return apply.compute(measure, Context(setting, weights, given))

    values = compute(records, jamba.weights)
    assert any(np.isnan(one).any() for one in values.values())
    assert caused_by_the_model(values, records, jamba.weights, compute) == {}


def test_nan_by_definition_is_not_taken_for_an_overflow(jamba: Resident) -> None:
    measure = HeadScores()
    setting = setting_of(measure, jamba)
    records = tuple(forward.run(jamba, setting.input, one) for one in measure.passes(setting))

    def compute(given: tuple[Record, ...], weights: ModelWeights) -> Values:
        return apply.compute(measure, Context(setting, weights, given))

    values = compute(records, jamba.weights)
    assert caused_by_the_model(values, records, jamba.weights, compute) == {}
    assert is_finite(records, jamba.weights)
    state = {name: tensor.clone() for name, tensor in jamba.weights.items()}
    state["model.layers.2.mamba.A_log"][0, 0] = torch.nan
    broken = Resident(jamba.module.config)
    broken.swap(state)
    records = tuple(forward.run(broken, setting.input, one) for one in measure.passes(setting))
    values = compute(records, broken.weights)
    assert np.isfinite(values["induction"][1]).all()  # below the broken layer
    wrong = caused_by_the_model(values, records, broken.weights, compute)["induction"]
    assert not is_finite(records, broken.weights)
    np.testing.assert_array_equal(wrong.all(axis=1), [False, False, False, True])
    assert not wrong[:3].any()
