"""Recurrent and hybrid models: losses and attention equal plain transformers'."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel

from pipeline.engine import forward
from pipeline.engine.activations import numbers_per_token
from pipeline.engine.changes import run_changed
from pipeline.engine.record import Entropy, HeadChange, KeyMap, Lag, LagMeans, Pass, Record, merge
from pipeline.engine.unembedding import replaced_unembedding
from pipeline.errors import InputError
from pipeline.inputs import Input
from pipeline.models.architecture import without_memory
from pipeline.models.facts import facts_of_module
from pipeline.models.families import RECURRENT as RECURRENT_FAMILIES
from pipeline.models.layers import blocks
from pipeline.models.resident import Resident
from tests.pipeline.recurrent_families import READ, REFUSED, VOCABULARY, config_of, plain_model

HYBRID = [family for family, made in READ.items() if made.attending]
RECURRENT = [family for family in READ if family not in HYBRID]
LENGTH = 40


def tokens_of(rows: int = 3, seed: int = 0) -> Tensor:
    return torch.randint(VOCABULARY, (rows, LENGTH), generator=torch.Generator().manual_seed(seed))


def given(tokens: Tensor, mask: np.ndarray | None = None) -> Input:
    return Input("x", "array", tokens.numpy(), {} if mask is None else {"attention_mask": mask})


def resident_of(model: PreTrainedModel) -> Resident:
    resident = Resident(model.config)
    resident.swap({name: tensor.clone() for name, tensor in model.state_dict().items()})
    return resident


@torch.inference_mode()
def losses_of(model: PreTrainedModel, tokens: Tensor, **arguments: Tensor) -> Tensor:
    logits = model(tokens, use_cache=False, **arguments).logits
    flat = logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
    return nn.functional.cross_entropy(*flat, reduction="none").view(len(tokens), -1)


@torch.inference_mode()
def matrices_of(model: PreTrainedModel, tokens: Tensor, layers: tuple[int, ...]) -> Tensor:
    """Return the patterns of the layers that attend, [layer, sequence, head, query, key]."""
    found = model(tokens, use_cache=False, output_attentions=True).attentions
    if len(found) == model.config.num_hidden_layers:  # some families return them for all layers
        found = [found[layer] for layer in layers]
    assert len(found) == len(layers)
    return torch.stack(list(found))


@pytest.mark.parametrize("family", READ)
def test_losses_equal_those_of_plain_transformers_at_every_checkpoint(family: str) -> None:
    resident, wanted = Resident(config_of(family)), Pass("x", losses=True)
    assert resident.facts.attention_layers == READ[family].attending
    # More than one: what a model changes in its weights or keeps between passes would show.
    for seed in (1, 2):
        model, tokens = plain_model(config_of(family), seed), tokens_of(seed=seed)
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        resident.swap(state)
        found = forward.run(resident, given(tokens), wanted).kept_loss
        torch.testing.assert_close(found, losses_of(model, tokens), atol=1e-5, rtol=0)
        forward.run(resident, given(tokens_of(seed=9)), wanted)
        again = forward.run(resident, given(tokens), wanted).kept_loss
        assert torch.equal(found, again)
        saved = plain_model(config_of(family), seed).state_dict()
        for name, tensor in resident.weights.items():
            assert torch.equal(tensor, saved[name]), name


@pytest.mark.parametrize("family", HYBRID)
def test_attention_equals_the_eager_patterns_and_is_nan_in_other_layers(family: str) -> None:
    model, tokens = plain_model(config_of(family)), tokens_of()
    layers = READ[family].attending
    resident = resident_of(model)
    index = np.tile(np.arange(LENGTH) // 2, (3, 1))
    asked = frozenset({Lag(1), KeyMap(index), LagMeans(3), Entropy()})
    record = forward.run(resident, given(tokens), Pass("x", attention=asked))
    found = {request: record.attention[request][list(layers)] for request in asked}
    own = matrices_of(model, tokens, layers)
    lag = own.diagonal(-1, -2, -1)
    close = {"atol": 1e-5, "rtol": 0}
    torch.testing.assert_close(found[Lag(1)][..., 1:], lag, **close)
    keys = torch.from_numpy(index)[None, :, None, :, None].expand(*own.shape[:-1], 1)
    torch.testing.assert_close(found[KeyMap(index)], own.gather(-1, keys)[..., 0], **close)
    torch.testing.assert_close(found[LagMeans(3)][..., 1], lag.mean(-1), **close)
    entropy = torch.special.entr(own).sum(-1)
    torch.testing.assert_close(found[Entropy()], entropy, atol=1e-4, rtol=0)
    others = list(resident.facts.without_attention)
    assert all(bool(record.attention[one][others].isnan().all()) for one in asked)


@pytest.mark.parametrize("family", HYBRID)
def test_a_head_without_its_output_equals_the_model_with_columns_of_zeros(family: str) -> None:
    model, tokens = plain_model(config_of(family)), tokens_of()
    layer = READ[family].attending[-1]
    resident = resident_of(model)
    change = HeadChange(((layer, 1),))
    found = changed(resident, given(tokens), change).kept_loss
    projection = output_projection(model, layer)
    projection.register_forward_pre_hook(lambda _, args: (without_head(args[0], 1),))
    torch.testing.assert_close(found, losses_of(model, tokens), atol=2e-5, rtol=0)
    assert bool((found - losses_of(plain_model(config_of(family)), tokens)).abs().max() > 1e-4)


def changed(resident: Resident, made: Input, change: HeadChange) -> Record:
    wanted = merge([Pass("x", losses=True, change=change)])
    before = {one.key: forward.run(resident, made, one) for one in wanted if one.change is None}
    of = [one for one in wanted if one.change]
    return run_changed(resident, {"x": made}, of, before)[of[0].key]


def output_projection(model: PreTrainedModel, layer: int) -> nn.Module:
    names = ("o_proj", "out_proj", "dense")
    block = blocks(model, model.config.num_hidden_layers)[layer]
    attending = [part for part in block.modules() if "Attention" in type(part).__name__]
    (found,) = [c for part in attending for name, c in part.named_children() if name in names]
    return found


def without_head(heads: Tensor, head: int) -> Tensor:
    of = heads.unflatten(-1, (4, -1)).clone()
    of[..., head, :] = 0
    return of.flatten(-2)


@pytest.mark.parametrize("family", READ)
def test_padding_after_the_tokens_changes_no_loss(family: str) -> None:
    model, tokens = plain_model(config_of(family)), tokens_of(2)
    mask = np.ones((2, LENGTH), dtype=np.int64)
    mask[1, 25:] = 0
    resident = resident_of(model)
    found = forward.run(resident, given(tokens, mask), Pass("x", losses=True)).kept_loss
    torch.testing.assert_close(found[:1], losses_of(model, tokens[:1]), atol=2e-5, rtol=0)
    alone = losses_of(model, tokens[1:, :25])
    torch.testing.assert_close(found[1:, :24], alone, atol=2e-5, rtol=0)
    assert bool(found[1, 24:].isnan().all())


def test_padding_before_a_token_is_refused() -> None:
    mask = np.ones((2, LENGTH), dtype=np.int64)
    mask[0, :3] = 0
    resident = resident_of(plain_model(config_of("rwkv")))
    with pytest.raises(InputError, match="has padding before some of its tokens"):
        forward.run(resident, given(tokens_of(2), mask), Pass("x", losses=True))


@pytest.mark.parametrize("family", ["mamba", "jamba"])
def test_a_recurrence_that_reads_later_tokens_is_refused(family: str) -> None:
    resident = resident_of(plain_model(config_of(family)))
    module = resident.module
    mixers = [part for part in module.modules() if type(part).__name__.endswith("Mixer")]
    own = mixers[0].forward
    vars(mixers[0])["forward"] = reversed_in_time(own)
    with pytest.raises(InputError, match="lets a token depend on later tokens"):
        forward.run(resident, given(tokens_of()), Pass("x", losses=True))


def reversed_in_time(own: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda hidden_states, *rest, **more: own(hidden_states.flip(1), *rest, **more).flip(1)


def test_weights_of_nan_do_not_end_the_check_of_causality() -> None:
    model = plain_model(config_of("mamba"))
    resident = Resident(model.config)
    state = model.state_dict()
    resident.swap({name: torch.full_like(tensor, torch.nan) for name, tensor in state.items()})
    wanted = Pass("x", losses=True)
    assert bool(forward.run(resident, given(tokens_of()), wanted).kept_loss.isnan().all())
    mixer = next(p for p in resident.module.modules() if type(p).__name__.endswith("Mixer"))
    vars(mixer)["forward"] = reversed_in_time(mixer.forward)
    resident.swap(copy.deepcopy(state))
    with pytest.raises(InputError, match="lets a token depend on later tokens"):
        forward.run(resident, given(tokens_of()), wanted)


@pytest.mark.parametrize("family", REFUSED)
def test_attention_that_is_not_known_is_refused_with_the_reason(family: str) -> None:
    resident = resident_of(plain_model(config_of(family)))
    with pytest.raises(InputError, match=REFUSED[family][1]):
        forward.run(resident, given(tokens_of()), Pass("x", losses=True))


def test_other_numbers_of_heads_than_the_config_names_are_refused() -> None:
    # JetMoE has a head for each of the experts that it chooses.
    config = hf.JetMoeConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_key_value_heads=2,
        kv_channels=8, intermediate_size=64, num_local_experts=4, pad_token_id=0,
    )  # fmt: skip
    model, tokens = plain_model(config), tokens_of()
    resident = resident_of(model)
    found = forward.run(resident, given(tokens), Pass("x", losses=True)).kept_loss
    torch.testing.assert_close(found, losses_of(model, tokens), atol=1e-5, rtol=0)
    resident.facts = replace(resident.facts, n_heads=3)
    with pytest.raises(InputError, match="attends with 4 heads, and the model's config names 3"):
        forward.run(resident, given(tokens), Pass("x", attention=frozenset({Lag(1)})))


def test_rwkv_is_computed_without_the_rescaling_for_half_precision() -> None:
    model, tokens = plain_model(config_of("rwkv", rescale_every=0)), tokens_of()
    resident = Resident(config_of("rwkv", rescale_every=2))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for _ in range(2):
        resident.swap(state)
        found = forward.run(resident, given(tokens), Pass("x", losses=True)).kept_loss
        torch.testing.assert_close(found, losses_of(model, tokens), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", RECURRENT)
def test_a_config_that_names_heads_beside_its_own_settings_has_none(family: str) -> None:
    facts = facts_of_module(without_memory(config_of(family, num_attention_heads=4)))
    assert (facts.n_heads, facts.d_head, facts.attention_layers) == (0, 0, ())


_LARGE = {"vocab_size": 64, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}


# 32 tokens are fewer than a chunk of most of these, to which they are padded.
@pytest.mark.parametrize("length", [256, 32])
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("mamba", {"state_size": 16}),
        ("mamba2", {"num_heads": 8, "head_dim": 32, "state_size": 64, "chunk_size": 128}),
        ("falcon_h1", {"mamba_d_ssm": 256, "mamba_d_head": 32, "mamba_chunk_size": 128}),
        ("qwen3_5_text", {"linear_num_key_heads": 4, "linear_key_head_dim": 32,
                          "layer_types": ["linear_attention"] * 2}),
        ("kimi_linear", {"linear_head_dim": 32, "layer_types": ["linear_attention"] * 2}),
        ("xlstm", {"embedding_dim": 128}),
        ("rwkv", {"attention_hidden_size": 128}),
    ],
)  # fmt: skip
def test_the_estimated_memory_of_a_pass_is_that_of_its_activations(
    family: str, changes: dict[str, object], length: int
) -> None:
    model = plain_model(config_of(family, **_LARGE, **changes))
    took = most_bytes(model, length) / 4 / length
    said = numbers_per_token(facts_of_module(model), model, length)
    assert said / 2.5 < took < 1.7 * said


def most_bytes(model: PreTrainedModel, length: int) -> int:
    """Return the most bytes of activations that are alive at a time, without logits."""
    tokens = torch.zeros(1, length, dtype=torch.long)
    with (
        torch.inference_mode(),
        replaced_unembedding(model, lambda h: h[..., :1]),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled,
    ):
        model(tokens, use_cache=False)
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return int(np.cumsum(changes).max())


def test_the_table_of_the_documentation_is_that_of_the_tested_families() -> None:
    rows = [
        f"| `{family}` | {layers_in_words(family)} | read | "
        f"{'read' if family in RECURRENT_FAMILIES else 'not described'} |"
        for family in READ
    ] + [
        f"| `{family}` | | refused: {why} | not described |" for family, (_, why) in REFUSED.items()
    ]
    page = (Path(__file__).parents[3] / "docs" / "file-formats.md").read_text()
    found = page.partition("| model_type |")[2].partition("\n\n")[0].splitlines()[2:]
    assert found == rows


def layers_in_words(family: str) -> str:
    attending, n = READ[family].attending, config_of(family).num_hidden_layers
    if not attending:
        return "none"
    return "all" if len(attending) == n else f"{len(attending)} of {n}"
