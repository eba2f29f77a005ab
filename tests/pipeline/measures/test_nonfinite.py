"""Numbers that depend on a NaN weight are NaN: every measure, in models of every family.

Which elements of a measure's arrays depend on a weight is found without any NaN: the weight is
moved by a finite amount in the sound model, and what then changes depends on it. What does not
change then may depend all the same (a rank, a label), so that nothing is claimed of it.
"""

import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import cycle

import numpy as np
import pytest
import torch

from pipeline.analysis.inputs import make_input
from pipeline.config import MatchesInput, RepeatedInput
from pipeline.engine.changes import run_changed
from pipeline.engine.forward import run
from pipeline.engine.record import merge
from pipeline.inputs import Input
from pipeline.measures import apply, registry
from pipeline.measures.base import Context, Measure, Setting
from pipeline.measures.modular.table import TableMeasure
from pipeline.models.families import FAMILIES as WITH_CIRCUITS
from pipeline.models.resident import Resident
from pipeline.store.fingerprint import canonical_json
from tests.pipeline.circuit_families import config_of
from tests.pipeline.families import DTYPES, FAMILIES, eager_model
from tests.pipeline.modular_organisms import adding_model, random_model, table_input

LENGTH = 12

# By how much a weight is moved, and of how many matrices of every family one is (all of them take
# ten minutes; which ones are looked at differs between families).
MOVE = 0.37
MATRICES = int(os.environ.get("ONTOGENY_TEST_MATRICES", "3"))

Values = dict[str, np.ndarray]

# Parameters without which a measure would be refused, or would run a pass for each head.
PARAMETERS: dict[str, dict] = {
    "token_loss": {"early_token": 2, "late_token": LENGTH - 1},
    "head_ablation": {"heads": ((1, 1),), "early_token": 2, "late_token": 5},
    "mean_ablation": {"heads": ((1, 1),), "early_token": 2, "late_token": 5},
    "pattern_preserving_ablation": {"heads": ((1, 1),), "early_token": 2, "late_token": 5},
    "path_ablation": {"heads": ((0, 1),)},
    "subset_ablation": {"heads": ((1, 1), (0, 0))},
    "backup": {"heads": ((0, 1),)},
    "indirect_object": {"heads": ((1, 1),)},
}
# Refused for models whose attention cannot be kept or restricted.
NEED_ATTENTION = ("pattern_preserving_ablation", "path_ablation", "strict_induction")
MEASURES = {name: kind(**PARAMETERS.get(name, {})) for name, kind in registry().items()}
ON_TABLES = {name: one for name, one in MEASURES.items() if isinstance(one, TableMeasure)}
ON_TEXT = {name: one for name, one in MEASURES.items() if name not in ON_TABLES}
ON_WEIGHTS = {name: one for name, one in ON_TEXT.items() if one.default_input is None}


def inputs_for(resident: Resident) -> dict[str, Input]:
    """Return a small input of each kind that a measure of text reads."""
    facts, rng = resident.facts, np.random.default_rng(0)

    def tokens(rows: int) -> np.ndarray:
        return rng.integers(3, facts.vocabulary, (rows, LENGTH))

    blocks = {"block_length": 8, "sequences": 4}
    prompts = tokens(3)
    names = {
        "indirect_object": np.array([4, 5, 6]), "subject": np.array([7, 8, 9]),
        "indirect_object_at": np.array([2, 3, 2]), "subject_at": np.array([[4, 7]] * 3),
    }  # fmt: skip
    made = [
        make_input("repeated", RepeatedInput(**blocks), "", facts),
        make_input("shuffled", RepeatedInput(**blocks, shuffled=True), "", facts),
        make_input("matches", MatchesInput(strings=2, longest=2, sequences=2), "", facts),
        Input("text", "text", tokens(3), attributes={"full_stop_ids": list(range(3, 20))}),
        Input("other_text", "text", tokens(2)),
        Input("corpus", "text", tokens(4)),
        Input("indirect_object", "indirect_object", prompts, names, {"corrupted": False}),
        Input("indirect_object_corrupted", "indirect_object", prompts[::-1].copy(), names,
              {"corrupted": True}),
        *(Input(name, "natural_matches", tokens(3), {"probe": np.array([6, 9, 7])},
                {"replaced": replaced})
          for name, replaced in (("natural_matches", "nothing"),
                                 ("natural_matches_earlier", "earlier"),
                                 ("natural_matches_last", "last"))),
    ]  # fmt: skip
    return {one.name: one for one in made}


def settings_of(
    resident: Resident, measures: Mapping[str, Measure], inputs: Mapping[str, Input]
) -> dict[str, Setting]:
    """Return the setting of each measure; measures that refuse theirs are left out."""
    settings = {}
    for name, measure in measures.items():
        others = {other: inputs[other] for other in measure.other_inputs}
        setting = Setting(resident.facts, inputs.get(measure.default_input or ""), others)
        if name in NEED_ATTENTION and not _holds_attention(resident):
            continue
        apply.check(measure, setting)
        settings[name] = setting
    return settings


def _holds_attention(resident: Resident) -> bool:
    return resident.module._can_set_attn_implementation()


def computed(
    resident: Resident,
    measures: Mapping[str, Measure],
    inputs: Mapping[str, Input],
    references: Mapping[str, dict] | None = None,
) -> Values:
    """Compute every variable of every measure, from the fewest passes, as a worker does."""
    settings = settings_of(resident, measures, inputs)
    passes = {name: measures[name].passes(setting) for name, setting in settings.items()}
    wanted = merge(one for some in passes.values() for one in some)
    records = {p.key: run(resident, inputs[p.input], p) for p in wanted if p.change is None}
    records |= run_changed(resident, inputs, [p for p in wanted if p.change], records)
    values = {}
    for name in settings:
        of = tuple(records[p.key] for p in passes[name])
        context = Context(settings[name], resident.weights, of)
        if measures[name].reference_from:
            reference = (references or {}).get(name) or measures[name].reference(context)
            context = replace(context, stored_reference=reference)
        found = apply.compute(measures[name], context)
        values |= {f"{name}/{variable}": np.asarray(value) for variable, value in found.items()}
    return values


def matrices_of(state: Mapping[str, torch.Tensor]) -> list[str]:
    return [name for name, tensor in state.items() if tensor.ndim >= 2]


def chosen(names: list[str], label: str, n: int) -> list[str]:
    """Return a sample of the names, the same in every test run, different for each family."""
    rng = np.random.default_rng(zlib.crc32(label.encode()))
    return sorted(rng.choice(names, min(n, len(names)), replace=False).tolist())


def entry_of(tensor: torch.Tensor, label: str) -> tuple[int, ...]:
    """Return one entry of a weight, the same in every test run."""
    rng = np.random.default_rng(zlib.crc32(label.encode()))
    return tuple(int(rng.integers(0, size)) for size in tensor.shape)


def with_entry(state: dict[str, torch.Tensor], name: str, value: float, move: bool = False) -> dict:
    changed = state[name].clone()
    where = entry_of(changed, name)
    changed[where] = changed[where] + value if move else value
    return {**state, name: changed}


def unlike(clean: Values, moved: Values, tolerance: float) -> dict[str, np.ndarray]:
    """Return which finite values of the original model differ in the changed one."""
    found = {}
    for name, value in clean.items():
        a, b = value.astype(float), moved[name].astype(float)
        scale = np.abs(a[np.isfinite(a)]).max(initial=1e-3)
        with np.errstate(invalid="ignore"):
            found[name] = np.isfinite(a) & ~(np.abs(a - b) <= tolerance * scale)
    return found


def is_undefined(value: np.ndarray) -> np.ndarray:
    """Return which elements are NaN, or -1 in variables of integers, which have no NaN."""
    return np.isnan(value) if value.dtype.kind == "f" else value == -1


def faults(
    resident: Resident,
    state: dict,
    names: list[str],
    compute: Callable[[], Values],
    tolerance: float,
) -> Iterator[str]:
    """Return elements that are finite although they depend on a NaN or infinite weight."""
    resident.swap(dict(state))
    clean = compute()
    for name, bad in zip(names, cycle((torch.nan, torch.inf, -torch.inf)), strict=False):
        resident.swap(with_entry(state, name, MOVE, move=True))
        dependent = unlike(clean, compute(), tolerance)
        resident.swap(with_entry(state, name, bad))
        for variable, value in compute().items():
            wrong = dependent[variable] & ~is_undefined(value)
            if wrong.any():
                where = tuple(int(x) for x in np.argwhere(wrong)[0])
                yield f"{name} {bad}: {variable}{list(where)} = {value[where]} ({wrong.sum()})"


def held(configuration, dtype: str) -> tuple[Resident, dict[str, torch.Tensor]]:
    model = eager_model(configuration, dtype)
    resident = Resident(model.config, dtype=dtype)
    return resident, {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_measure_is_nan_where_it_depends_on_a_weight_that_is(family: str):
    resident, state = held(FAMILIES[family](), DTYPES[family])
    inputs = inputs_for(resident)
    tolerance = 1e-8 if DTYPES[family] == "float64" else 1e-3
    names = matrices_of(state)
    if family != "organism":
        names = chosen(names, family, MATRICES)
    compute = lambda: computed(resident, ON_TEXT, inputs)  # noqa: E731
    assert not list(faults(resident, state, names, compute, tolerance))


@pytest.mark.parametrize("family", WITH_CIRCUITS)
def test_measures_of_weights_alone_are_nan_for_every_matrix_they_read(family: str):
    resident, state = held(config_of(family), "float64")
    compute = lambda: computed(resident, ON_WEIGHTS, {})  # noqa: E731
    assert not list(faults(resident, state, matrices_of(state), compute, 1e-8))


def held_table(model) -> tuple[Resident, dict[str, torch.Tensor]]:
    resident = Resident(model.config, dtype="float64")
    return resident, {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("made", [random_model(11), adding_model(7, [2, 3])], ids=["11", "7"])
def test_measures_of_modular_arithmetic_are_nan_where_a_weight_is(made):
    resident, state = held_table(made)
    inputs = {"table": table_input(resident.facts.vocabulary - 1)}
    resident.swap(dict(state))
    references = references_of(resident, inputs)
    compute = lambda: computed(resident, ON_TABLES, inputs, references)  # noqa: E731
    assert not list(faults(resident, state, matrices_of(state), compute, 1e-8))


def references_of(resident: Resident, inputs: Mapping[str, Input]) -> dict[str, dict]:
    """Return the reference of each measure, with the present weights as the last checkpoint's."""
    return {
        name: measure.reference(context_of(resident, measure, inputs))
        for name, measure in ON_TABLES.items()
        if measure.reference_from
    }


def context_of(resident: Resident, measure: Measure, inputs: Mapping[str, Input]) -> Context:
    setting = Setting(resident.facts, inputs["table"])
    records = tuple(run(resident, inputs["table"], one) for one in measure.passes(setting))
    return Context(setting, resident.weights, records)


@pytest.mark.parametrize(
    ("parameter", "undefined"),
    [
        ("lm_head", {"modular_addition/restricted_loss", "restricted_loss/train",
                     "restricted_loss/neurons_test", "modular_addition/excluded_loss",
                     "modular_addition/logit_variance_explained", "restricted_loss/test",
                     "lottery_ticket/keys_above_others", "lottery_ticket/mean_rank"}),
        ("embed_tokens", {"restricted_loss/all_embedding_keys", "excluded_loss/embedding_keys",
                          "restricted_loss/all_cluster_keys", "excluded_loss/cluster_keys",
                          "embedding_plane/first", "embedding_plane/circularity",
                          "lottery_ticket/power_ratio", "lottery_ticket/rank"}),
    ],
)  # fmt: skip
def test_what_a_last_checkpoint_that_is_not_finite_decides_is_undefined(parameter, undefined):
    resident, state = held_table(random_model(11))
    inputs = {"table": table_input(11)}
    (name,) = (name for name in state if parameter in name)
    resident.swap(with_entry(state, name, torch.nan))
    references = references_of(resident, inputs)
    canonical_json(references)  # which is how they are stored: no NaN is in them
    resident.swap(dict(state))
    sound = computed(resident, ON_TABLES, inputs)
    found = computed(resident, ON_TABLES, inputs, references)
    for variable, value in found.items():
        if variable in undefined:
            assert np.isnan(value).all(), variable
        elif variable.split("/")[0] not in {one.split("/")[0] for one in undefined}:
            np.testing.assert_array_equal(value, sound[variable])
