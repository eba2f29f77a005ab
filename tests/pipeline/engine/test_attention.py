"""The engine's attention and losses against the whole matrices of transformers' eager path."""

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from transformers import (
    GPTBigCodeForCausalLM,  # noqa: F401 (compiled on import by 5.17, with the softmax as it is then)
    PreTrainedModel,
)

from pipeline.engine import attention, forward
from pipeline.engine.attention import attention_function
from pipeline.engine.pairs import resolve
from pipeline.engine.record import AttentionRequest, KeyMap, KeyPosition, Lag, Pass, Record
from pipeline.errors import InputError
from pipeline.inputs import Input
from pipeline.models.resident import Resident
from tests.pipeline.families import DTYPES, FAMILIES, VOCABULARY, WINDOW, eager_model, matrices
from tests.pipeline.looked_up import entries

SEQUENCES, LENGTH = 3, 24
TOKENS = torch.randint(
    3, VOCABULARY, (SEQUENCES, LENGTH), generator=torch.Generator().manual_seed(1)
)
# Each query with any key up to itself, or with none.
ANY_KEYS = np.random.default_rng(0).integers(-1, np.arange(LENGTH) + 1, (SEQUENCES, LENGTH))
REQUESTS: tuple[AttentionRequest, ...] = (
    Lag(0), Lag(1), Lag(WINDOW - 1), Lag(WINDOW), KeyPosition(0), KeyPosition(3), KeyMap(ANY_KEYS),
)  # fmt: skip
EVERYTHING = Pass(
    "x",
    losses=True,
    attention=frozenset(REQUESTS),
    logit_positions=(-1, 4),
    head_outputs=(0, 2),
    hidden_states=(0, 1, 3),
)


@pytest.fixture(autouse=True)
def softmax_in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the oracle a float64 softmax: eager attention always takes it in float32."""
    plain = torch.nn.functional.softmax
    monkeypatch.setattr(
        torch.nn.functional, "softmax", lambda x, dim=-1, dtype=None, **_: plain(x, dim=dim)
    )


@cache
def family(name: str) -> tuple[PreTrainedModel, Resident]:
    config = FAMILIES[name]()
    model = eager_model(config, DTYPES[name])
    resident = Resident(config, dtype=DTYPES[name])
    resident.swap(model.state_dict())
    return model, resident


def record(resident: Resident, wanted: Pass = EVERYTHING, tokens: Tensor = TOKENS) -> Record:
    return forward.run(resident, Input("x", "array", tokens.numpy()), wanted)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_yields_what_its_eager_matrices_hold(name: str) -> None:
    model, resident = family(name)
    found = record(resident)
    matrix, losses, logits = matrices(model, TOKENS)

    assert matrix[..., LENGTH // 2 :, :].amax(-1).mean() > 0.15  # uniform: 0.04 to 0.08
    close = {"rtol": 0, "equal_nan": True, "check_dtype": False}
    for request in REQUESTS:
        expected = entries(matrix, request)
        torch.testing.assert_close(found.attention[request], expected, atol=1e-5, **close)
    torch.testing.assert_close(found.loss, losses, atol=1e-4, **close)
    for position in EVERYTHING.logit_positions:
        torch.testing.assert_close(found.logits[position], logits[:, position], atol=1e-4, **close)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "organism_smeared"])
def test_padding_on_the_left_changes_nothing_of_what_follows(name: str) -> None:
    _, resident = family(name)
    pads = 5
    padded = torch.cat([torch.zeros(SEQUENCES, pads, dtype=torch.long), TOKENS], dim=1)
    padded[1] = torch.cat([TOKENS[1], TOKENS[1, :pads]])  # one sequence without padding
    seen = np.ones(padded.shape, dtype=np.int64)
    seen[[0, 2], :pads] = 0
    wanted = Pass("x", losses=True, attention=frozenset({Lag(1), KeyPosition(pads)}))
    found = forward.run(
        resident, Input("x", "array", padded.numpy(), {"attention_mask": seen}), wanted
    )
    alone = record(resident, Pass("x", losses=True, attention=frozenset({Lag(1), KeyPosition(0)})))

    assert found.loss is not None and alone.loss is not None
    close = {"atol": 1e-5, "rtol": 0, "equal_nan": True}
    for s in (0, 2):
        torch.testing.assert_close(found.loss[s, pads:], alone.loss[s], **close)
        assert found.loss[s, :pads].isnan().all()
        for shifted, plain in ((Lag(1), Lag(1)), (KeyPosition(pads), KeyPosition(0))):
            of_padded = found.attention[shifted][:, s]
            expected = alone.attention[plain][:, s, :, 1:]
            torch.testing.assert_close(of_padded[..., pads + 1 :], expected, **close)
            assert of_padded[..., :pads].isnan().all()
    assert not found.loss[1].isnan().any()


def test_padding_before_smeared_keys_is_refused() -> None:
    _, resident = family("organism_smeared")
    seen = np.ones(TOKENS.shape)
    seen[0, 0] = 0
    with pytest.raises(InputError, match="padding"):
        forward.run(
            resident, Input("x", "array", TOKENS.numpy(), {"attention_mask": seen}), EVERYTHING
        )


def _without_sinks(model: PreTrainedModel) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith("sinks"):
            parameter.fill_(-1e4)


SENSITIVE: dict[str, tuple[str, Callable[[PreTrainedModel], None], dict[str, object]]] = {
    "softcap on attention": ("gemma2", lambda model: None, {"attn_logit_softcapping": None}),
    "sinks": ("gpt_oss", _without_sinks, {}),
    "window": ("mistral", lambda model: None, {"sliding_window": None}),
    "scaling of attention": ("granite", lambda model: None, {"attention_multiplier": 1.0}),
}


@pytest.mark.parametrize("what", SENSITIVE)
def test_dropping_a_part_of_attention_would_fail_the_comparison(what: str) -> None:
    name, change, changes = SENSITIVE[what]
    model, _ = family(name)
    without = eager_model(FAMILIES[name](**changes))
    without.load_state_dict(model.state_dict())
    change(without)
    (with_it, _, _), (dropped, _, _) = matrices(model, TOKENS), matrices(without, TOKENS)
    assert (with_it - dropped).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("gemma2", {"final_logit_softcapping": None}),
        ("cohere", {"logit_scale": 1.0}),
        ("granite", {"logits_scaling": 1.0}),
    ],
)
def test_dropping_what_follows_the_unembedding_would_fail_the_comparison(
    name: str, changes: dict[str, object]
) -> None:
    model, _ = family(name)
    without = eager_model(FAMILIES[name](**changes))
    without.load_state_dict(model.state_dict())
    assert (matrices(model, TOKENS)[1] - matrices(without, TOKENS)[1]).abs().max() > 1e-2


@pytest.mark.parametrize("name", FAMILIES)
def test_stream_and_head_outputs_are_those_the_model_computes_with(name: str) -> None:
    """Stream: transformers' own hidden states. For the heads' outputs, see `test_changes`."""
    model, resident = family(name)
    found = record(resident)
    with torch.inference_mode():
        expected = model(TOKENS, output_hidden_states=True, use_cache=False).hidden_states
    for layer in (0, 1):
        torch.testing.assert_close(
            found.hidden_states[layer], expected[layer], atol=1e-5, rtol=0, check_dtype=False
        )
    for layer in (0, 2):
        assert found.head_outputs[layer].shape[:3] == (SEQUENCES, LENGTH, 4)


class TestResolve:
    def test_a_map_of_one_lag_becomes_that_diagonal(self) -> None:
        index = np.broadcast_to(
            np.where(np.arange(LENGTH) >= 9, np.arange(LENGTH) - 5, -1), (3, 24)
        )
        pairs = resolve(KeyMap(index), TOKENS.numpy())
        assert (pairs.lag, pairs.key, pairs.index, pairs.first) == (5, None, None, 9)
        assert pairs.undefined is None

    def test_a_map_of_one_key_becomes_that_column(self) -> None:
        index = np.full((3, LENGTH), -1)
        index[0, 10:] = index[1, 12:] = 4
        pairs = resolve(KeyMap(index), TOKENS.numpy())
        assert (pairs.lag, pairs.key, pairs.index, pairs.first) == (None, 4, None, 10)
        assert pairs.undefined is not None and bool(pairs.undefined[1, 11])

    def test_a_map_of_nothing_yields_nan(self) -> None:
        nothing = KeyMap(np.full((3, LENGTH), -1))
        _, resident = family("llama")
        found = record(resident, Pass("x", attention=frozenset({nothing})))
        assert found.attention[nothing].isnan().all()

    @pytest.mark.parametrize("holes", [False, True])
    def test_diagonals_and_columns_of_maps_equal_what_a_gather_yields(self, holes: bool) -> None:
        position = np.arange(LENGTH)
        lag = np.broadcast_to(np.where(position >= 4, position - 4, -1), (3, LENGTH)).copy()
        key = np.broadcast_to(np.where(position >= 4, 4, -1), (3, LENGTH)).copy()
        if holes:
            lag[1, 6], key[2, 9] = -1, -1
        model, resident = family("gpt_neox")
        requests = (KeyMap(lag), KeyMap(key))
        found = record(resident, Pass("x", attention=frozenset(requests)))
        matrix, _, _ = matrices(model, TOKENS)
        for request in requests:
            torch.testing.assert_close(
                found.attention[request], entries(matrix, request), atol=1e-6, rtol=0,
                equal_nan=True,
            )  # fmt: skip

    @pytest.mark.parametrize(
        "request_", [Lag(-1), KeyPosition(-2), KeyMap(np.full((3, LENGTH), 5)), KeyMap(ANY_KEYS.T)]
    )
    def test_requests_that_no_causal_model_can_serve_are_refused(
        self, request_: AttentionRequest
    ) -> None:
        with pytest.raises(ValueError):
            resolve(request_, TOKENS.numpy())


class TestRefusals:
    @pytest.fixture
    def model(self) -> Iterator[Resident]:
        config = FAMILIES["llama"]()
        resident = Resident(config)
        resident.swap(eager_model(config, "float32").state_dict())
        yield resident

    def test_an_unknown_argument_is_refused_by_name(self) -> None:
        q = torch.zeros(1, 1, 2, 4)
        with pytest.raises(InputError, match="position_bias"):
            attention_function(nn.Identity(), q, q, q, None, position_bias=q)  # type: ignore

    def test_dropout_is_refused(self) -> None:
        q = torch.zeros(1, 1, 2, 4)
        with pytest.raises(InputError, match="dropout"):
            attention_function(nn.Identity(), q, q, q, None, dropout=0.1)  # type: ignore

    def test_a_mask_of_unknown_make_is_refused(self) -> None:
        q = torch.zeros(1, 1, 2, 4)
        with pytest.raises(InputError, match="mask"):
            attention_function(nn.Identity(), q, q, q, torch.zeros(1, 1, 2, 2))  # type: ignore

    def test_an_attention_that_looks_ahead_is_refused(self) -> None:
        resident = Resident(hf.LlamaConfig(**{**FAMILIES["llama"]().to_dict(), "is_causal": False}))
        with pytest.raises(InputError, match="later tokens"):
            record(resident)

    def test_a_layer_that_attends_twice_is_refused(self, model: Resident) -> None:
        layers = model.module.model.layers
        layers[1].self_attn.register_forward_pre_hook(
            lambda part, args, kwargs: type(part).forward(part, *args, **kwargs) and None,
            with_kwargs=True,
        )
        with pytest.raises(InputError, match="attention layer 1 called as number 2"):
            record(model)

    def test_layers_that_go_unobserved_are_refused(self, model: Resident) -> None:
        model.module.model.layers = model.module.model.layers[:2]
        with pytest.raises(InputError, match="2 attention layers could be observed"):
            record(model, Pass("x", losses=True))

    def test_a_model_that_stays_on_its_own_attention_is_refused(self, model: Resident) -> None:
        record(model, Pass("x", losses=True))
        model.module.config._attn_implementation = "eager"
        with pytest.raises(InputError, match="0 attention layers could be observed"):
            record(model)

    def test_logits_changed_in_an_unknown_way_are_refused(self, model: Resident) -> None:
        plain = model.module.forward

        def squared(*args: object, **kwargs: object) -> object:
            out = plain(*args, **kwargs)
            out.logits = out.logits * 1.5
            return out

        model.module.forward = squared
        with pytest.raises(InputError, match="changes its logits"):
            record(model)

    def test_a_failed_pass_leaves_no_trace(self, model: Resident) -> None:
        expected = record(model).loss
        layers = model.module.model.layers
        model.module.model.layers = layers[:2]
        with pytest.raises(InputError):
            record(model)
        model.module.model.layers = layers
        assert attention.current_recorder() is None
        assert torch.equal(record(model).loss, expected)  # type: ignore[arg-type]
