"""Two configs describe one model exactly if tiny models of both compute the same logits."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoConfig, LlamaConfig, PreTrainedConfig

from pipeline.models.architecture import without_memory
from pipeline.models.meaning import Meaning, grouped, meanings_of, usual_group
from tests.pipeline.families import FAMILIES, eager_model

TOKENS = torch.arange(2, 26).view(2, 12)

# A change, by what it is about. None of them may split a run ...
HARMLESS: dict[str, Any] = {
    "pad_token_id": 7, "eos_token_id": [3, 5], "bos_token_id": 9, "architectures": ["Other"],
    "_attn_implementation_autoset": True, "attention_dropout": 0.3, "attn_pdrop": 0.3,
    "resid_pdrop": 0.3, "embd_pdrop": 0.2, "hidden_dropout": 0.3, "layerdrop": 0.2,
    "initializer_range": 0.5, "use_cache": False, "torch_dtype": "bfloat16",
    "transformers_version": "4.0.0", "id2label": {"0": "a", "1": "b"}, "temperature": 0.5,
    "router_aux_loss_coef": 0.7, "output_router_logits": True,
}  # fmt: skip
# ... and each of these does, in the families whose logits it changes.
TELLING: dict[str, Any] = {
    "rms_norm_eps": 0.1, "layer_norm_epsilon": 0.1, "layer_norm_eps": 0.1, "hidden_act": "relu",
    "activation_function": "relu", "sliding_window": 3, "window_size": 3,
    "scale_attn_by_inverse_layer_idx": False, "final_logit_softcapping": 1.0,
    "attn_logit_softcapping": 0.5, "query_pre_attn_scalar": 2, "logit_scale": 0.5,
    "attention_multiplier": 0.5, "residual_multiplier": 0.5, "logits_scaling": 3.0,
    "embedding_multiplier": 2.0, "clip_qkv": 0.1, "use_parallel_residual": False,
    "num_experts_per_tok": 1, "norm_topk_prob": True, "rotary_dim": 4,
    "rope_parameters": {"rope_theta": 50.0, "rope_type": "default"},
    "do_layer_norm_before": False, "partial_rotary_factor": 0.5,
}  # fmt: skip


def logits(config: PreTrainedConfig) -> Tensor | None:
    """Return the logits of a model of this config with given weights; None if they do not fit."""
    try:
        with torch.inference_mode():
            return eager_model(config, "float32")(TOKENS, use_cache=False).logits
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError):
        return None


def as_json(config: PreTrainedConfig) -> dict[str, Any]:
    return json.loads(config.to_json_string(use_diff=False))


def are_one(*configs: dict[str, Any]) -> bool:
    return set(grouped(meanings_of(configs))) == {0}


@pytest.fixture(scope="module")
def bases() -> Callable[[str], tuple[dict[str, Any], Tensor]]:
    known: dict[str, tuple[dict[str, Any], Tensor]] = {}

    def base(family: str) -> tuple[dict[str, Any], Tensor]:
        if family not in known:
            config = FAMILIES[family]()
            known[family] = as_json(config), eager_logits(config)
        return known[family]

    def eager_logits(config: PreTrainedConfig) -> Tensor:
        found = logits(config)
        assert found is not None
        return found

    return base


SOME = ["gpt2", "llama", "gpt_neox", "gemma2", "olmoe", "opt", "xglm", "granite"]
SOME = [name for name in SOME if name in FAMILIES]


@pytest.mark.parametrize("family", SOME)
def test_a_key_without_effect_never_splits_a_run(family: str, bases: Any) -> None:
    plain, expected = bases(family)
    harmless = dict(HARMLESS)
    if family == "xglm":  # counts positions from the padding, see below
        del harmless["pad_token_id"]
    for key, value in harmless.items():
        changed = plain | {key: value}
        assert are_one(plain, changed), key
    found = logits(AutoConfig.for_model(**(plain | harmless)))
    assert found is not None and torch.equal(found, expected)


@pytest.mark.parametrize("family", SOME)
def test_a_key_that_changes_logits_always_splits_a_run(family: str, bases: Any) -> None:
    plain, expected = bases(family)
    told = 0
    for key in TELLING.keys() & plain.keys():
        changed = plain | {key: TELLING[key]}
        found = logits(AutoConfig.for_model(**changed))
        if found is None or not torch.equal(found, expected):
            told += 1
            assert not are_one(plain, changed), key
            (usual, other) = meanings_of([plain, changed])
            assert key in other.difference(usual)
    assert told


KEYS = sorted(HARMLESS | TELLING)


@settings(max_examples=40)
@given(st.sampled_from(SOME), st.lists(st.sampled_from(KEYS), max_size=3, unique=True))
def test_configs_held_to_be_one_model_have_equal_logits(bases, family, keys) -> None:
    plain, expected = bases(family)
    changed = plain | {key: (HARMLESS | TELLING)[key] for key in keys}
    if are_one(plain, changed):
        found = logits(AutoConfig.for_model(**changed))
        assert found is not None and torch.equal(found, expected)


@pytest.mark.parametrize(
    ("former", "present"),
    [
        ({"rope_theta": 1e4, "rope_scaling": None}, {"rope_theta": 10000, "rope_type": "default"}),
        (
            {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
            {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0},
        ),
    ],
)
def test_the_spellings_of_two_versions_are_one_model(former: Any, present: Any) -> None:
    now = as_json(LlamaConfig(num_hidden_layers=2)) | {"rope_parameters": present}
    then = {key: value for key, value in now.items() if key != "rope_parameters"} | former
    assert are_one(now, then)
    assert not are_one(now, then | {"rope_theta": 7e5})


def test_positions_count_where_parameters_or_rotations_depend_on_them() -> None:
    def equal_for_both(make: Callable[..., PreTrainedConfig], **more: Any) -> bool:
        key = "n_positions" if make is FAMILIES["gpt2"] else "max_position_embeddings"
        plain = as_json(make(**more))
        return are_one(plain, plain | {key: 128})

    assert equal_for_both(FAMILIES["llama"])
    assert equal_for_both(FAMILIES["gptj"]) if "gptj" in FAMILIES else True
    assert not equal_for_both(FAMILIES["gpt2"])  # learned
    dynamic = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    assert not equal_for_both(FAMILIES["llama"], rope_parameters=dynamic)


def test_padding_counts_where_positions_are_counted_from_it() -> None:
    plain = as_json(FAMILIES["xglm"]())
    # The position with the number of the padding is a row of zeros there.
    numbers = {
        pad: logits(AutoConfig.for_model(**(plain | {"pad_token_id": pad}))) for pad in (0, 5)
    }
    assert not torch.equal(numbers[0], numbers[5])
    assert not are_one(plain, plain | {"pad_token_id": 5})


def test_unknown_keys_and_unknown_models_are_compared_as_they_are() -> None:
    plain = as_json(FAMILIES["llama"]())
    assert not are_one(plain, plain | {"novel_switch": True})
    stranger = {"model_type": "stranger", "width": 3, "top_k": 2}
    assert are_one(stranger, stranger | {"eos_token_id": 4})
    assert not are_one(stranger, stranger | {"top_k": 1})
    assert not are_one(stranger, plain)


@pytest.mark.parametrize(
    "odd",
    [
        {"hidden_size": "abc"}, {"num_attention_heads": 0}, {"model_type": ["x"]},
        {"rope_parameters": 3}, {"hidden_size": None}, {"vocab_size": float("nan")},
        {"hidden_act": "nonsense"},
    ],
)  # fmt: skip
def test_odd_values_are_another_model_and_never_the_usual_one(odd: dict[str, Any]) -> None:
    plain = as_json(FAMILIES["llama"]())
    meanings = meanings_of([plain, plain | odd])
    groups = grouped(meanings)
    assert groups == [0, 1] and usual_group(meanings, groups) == 0
    assert next(iter(odd)) in meanings[1].difference(meanings[0])


def test_most_decide_and_the_last_one_where_there_are_as_many() -> None:
    plain = as_json(FAMILIES["llama"]())
    other = plain | {"rms_norm_eps": 0.1}
    for configs, expected in (([plain, plain, other], 0), ([plain, other], 1)):
        meanings = meanings_of(configs)
        assert usual_group(meanings, grouped(meanings)) == expected


def test_a_module_without_memory_has_shapes_alone() -> None:
    module = without_memory(FAMILIES["llama"]())
    assert {p.device.type for p in module.parameters()} == {"meta"}


def test_configs_that_all_differ_are_not_compared_with_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some trainers write the step into config.json."""
    compared, same_as = [], Meaning.same_as

    def counted(self: Meaning, other: Meaning) -> bool:
        compared.append(self)
        return same_as(self, other)

    monkeypatch.setattr(Meaning, "same_as", counted)
    configs = [{"model_type": "unknown", "step": step % 30, "n": step} for step in range(60)]
    again = [{"n": float(one["n"]), "step": one["step"], "use_cache": True} for one in configs]
    again = [{**one, "model_type": "unknown"} for one in again]
    assert grouped(meanings_of([*configs, *again])) == [*range(60), *range(60)]
    assert len(compared) == 60
