"""Non-finite numbers of a measure: because the model's are not finite, or by definition.

What is undefined by definition is known here from the healthy model: those indices, and no others.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.analysis.inputs import TableInput, make_input
from pipeline.engine.changes import run_changed
from pipeline.engine.finite import caused_by_the_model, is_finite
from pipeline.engine.forward import run
from pipeline.engine.record import Entropy, KeyMap, KeyPosition, Lag, LagMeans, Pass, merge
from pipeline.inputs import Input
from pipeline.measures import apply, registry
from pipeline.measures.base import Context, Measure, Setting
from pipeline.models.organism_config import OrganismConfig
from pipeline.models.resident import Resident
from tests.benchmarks.measure_costs import inputs_for

P = 13
Edit = Callable[[dict[str, Tensor]], None]


def healthy(state: dict[str, Tensor]) -> None:
    pass


def silent(state: dict[str, Tensor]) -> None:
    """Make every head and every MLP write zeros, as some are initialised."""
    for name in state:
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            state[name].zero_()


def overflowing(state: dict[str, Tensor]) -> None:
    """Return finite weights with which the first layer overflows float32."""
    for name in state:
        if "layers.0.mlp" in name:
            state[name].mul_(1e30)


@cache
def resident(edit: Edit, table: bool) -> Resident:
    shape = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
    if table:
        config = OrganismConfig(
            vocab_size=P + 1, num_hidden_layers=1, max_position_embeddings=3, **shape
        )
    else:
        config = AutoConfig.for_model(
            "llama", vocab_size=151, num_hidden_layers=2, max_position_embeddings=1100, **shape
        )
    torch.manual_seed(0)
    state = AutoModelForCausalLM.from_config(config).state_dict()
    edit(state)
    made = Resident(config)
    made.swap(state)
    return made


@cache
def inputs(table: bool) -> dict[str, Input]:
    facts = resident(healthy, table)
    if not table:
        return inputs_for(facts)
    spec = TableInput(p=P, operation="add", train_share=0.4, split_seed=0)
    return {"table": make_input("table", spec, "", facts.facts)}


def of(kind: type[Measure], edit: Edit) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return a measure's values, and where they are not finite because of the model."""
    table = kind.default_input == "table"
    model, made = resident(edit, table), inputs(table)
    told = {"heads": ((0, 0), (1, 0)), "token_ids": (15,)}
    measure = kind(**{name: told[name] for name in told.keys() & kind.model_fields.keys()})
    others = {name: made[name] for name in measure.other_inputs}
    setting = Setting(model.facts, made.get(measure.default_input or ""), others)
    passes = measure.passes(setting)
    wanted = merge(passes)
    with torch.inference_mode():
        records = {p.key: run(model, made[p.input], p) for p in wanted if p.change is None}
        records |= run_changed(model, made, [p for p in wanted if p.change], records)
        given = tuple(records[p.key] for p in passes)
        context = Context(setting, model.weights, given)
        if measure.reference_from:
            context = replace(context, stored_reference=measure.reference(context))

        def compute(records, weights) -> dict[str, np.ndarray]:
            values = apply.compute(measure, replace(context, records=records, weights=weights))
            return {name: np.asarray(value) for name, value in values.items()}

        values = compute(given, model.weights)
        return values, caused_by_the_model(values, given, model.weights, compute)


@pytest.mark.parametrize("edit", [healthy, silent])
@pytest.mark.parametrize("name", sorted(registry()))
def test_no_healthy_model_is_said_not_to_be_finite(name: str, edit: Edit) -> None:
    _, wrong = of(registry()[name], edit)
    assert wrong == {}


@pytest.mark.parametrize("name", ["token_loss", "head_ablation", "lag_profile", "logit_lens"])
def test_what_overflows_is_told_from_what_is_undefined(name: str) -> None:
    usual, _ = of(registry()[name], healthy)
    values, wrong = of(registry()[name], overflowing)
    expected = {k: ~np.isfinite(v) & ~np.isnan(usual[k]) for k, v in values.items()}
    expected = {variable: mask for variable, mask in expected.items() if mask.any()}
    assert expected and wrong.keys() == expected.keys()
    for variable, mask in expected.items():
        np.testing.assert_array_equal(wrong[variable], mask)


def test_infinity_counts_whatever_the_model_is() -> None:
    weights = resident(healthy, False).weights
    values = {"a": np.array([1.0, np.inf, np.nan])}
    wrong = caused_by_the_model(values, (), weights, lambda *_: values)
    assert wrong["a"].tolist() == [False, True, False]


def test_padding_and_absent_keys_are_undefined_by_definition() -> None:
    tokens = np.arange(12).reshape(2, 6)
    mask = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    made = Input("text", "array", tokens, {"attention_mask": mask})
    index = np.array([[-1, 0, -1, 1, 2, 3], [-1, -1, 0, -1, -1, -1]])
    requests = frozenset([Lag(2), KeyPosition(1), KeyMap(index), LagMeans(8), Entropy()])
    wanted = Pass("text", losses=True, attention=requests, head_outputs=(0,), hidden_states=(1,))
    for edit, finite in ((healthy, True), (overflowing, False)):
        model = resident(edit, False)
        record = run(model, made, wanted)
        assert any(tensor.isnan().any() for tensor in record.attention.values())
        assert is_finite((record,), model.weights) is finite
