"""Passes that change heads, against models in which a hook makes the same change."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.models.llama.modeling_llama import repeat_kv

from pipeline.engine import changes, forward
from pipeline.engine.batches import Limits
from pipeline.engine.changes import run_changed
from pipeline.engine.record import PATTERNS, HeadChange, Kept, Lag, OutputOn, Pass, Record, merge
from pipeline.errors import InputError
from pipeline.inputs import Input
from pipeline.models.resident import Resident
from tests.pipeline.editing import edited, outputs
from tests.pipeline.families import DTYPES, FAMILIES, VOCABULARY, eager_model

LENGTH = 14
RNG = np.random.default_rng(0)
INPUTS = {
    name: Input(name, "array", RNG.integers(3, VOCABULARY, (3, LENGTH))) for name in ("x", "y")
}
IDS = {name: torch.from_numpy(made.tokens) for name, made in INPUTS.items()}


@cache
def family(name: str) -> tuple[PreTrainedModel, Resident]:
    config = FAMILIES[name]()
    resident = Resident(config, dtype=DTYPES[name])
    model = eager_model(config, DTYPES[name])
    resident.swap(model.state_dict())
    return model, resident


def changed(
    resident: Resident,
    *wanted: HeadChange,
    inputs: dict[str, Input] = INPUTS,
    limits: Limits = Limits(),
) -> list[Record]:
    passes = [Pass("x", losses=True, logit_positions=(-1,), change=one) for one in wanted]
    before = {
        one.key: forward.run(resident, inputs[one.input], one)
        for one in merge(passes)
        if one.change is None
    }
    found = run_changed(resident, inputs, passes, before, limits)
    return [found[one.key] for one in passes]


def losses(model: PreTrainedModel, ids: Tensor = IDS["x"]) -> tuple[Tensor, Tensor]:
    logits = model(ids, use_cache=False).logits
    log_p = logits.double().log_softmax(-1)[:, :-1]
    return -log_p.gather(-1, ids[:, 1:, None])[..., 0], logits[:, -1]


def close(found: Record, expected: tuple[Tensor, Tensor]) -> None:
    for a, b in ((found.loss, expected[0]), (found.logits[-1], expected[1])):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0, check_dtype=False)


@pytest.mark.parametrize("name", FAMILIES)
def test_changed_heads_are_what_the_model_computes_on_with(name: str) -> None:
    model, resident = family(name)
    last, first = ((2, 1),), ((1, 3), (2, 0))
    found = changed(
        resident,
        HeadChange(last),
        HeadChange(last, "mean"),
        HeadChange(first, OutputOn("y")),
        HeadChange(((0, 2),)),
    )
    with torch.inference_mode():
        clean, elsewhere = outputs(model, IDS["x"]), outputs(model, IDS["y"])
        mean = clean[2][:, :, 1].mean(dim=(0, 1))

        def to(head: int, value: Tensor) -> Callable[[Tensor], object]:
            return lambda z: z[:, :, head].copy_(value)

        zero = torch.zeros(())
        oracles = (
            {2: to(1, zero)},
            {2: to(1, mean)},
            {1: to(3, elsewhere[1][:, :, 3]), 2: to(0, elsewhere[2][:, :, 0])},
            {0: to(2, zero)},
        )
        unchanged = losses(model)
        for record, edits in zip(found, oracles, strict=True):
            with edited(model, edits):
                expected = losses(model)
            assert (expected[0] - unchanged[0]).abs().max() > 1e-3
            close(record, expected)


@contextmanager
def projected(
    model: PreTrainedModel, taken: list[dict[str, Tensor]], kept: frozenset[Kept] | None = None
) -> Iterator[None]:
    """Record each layer's queries, keys and values, or use the recorded ones of the kept kinds."""

    def attend(module, query, key, value, mask, scaling, **_):
        own = {"queries": query, "keys": key, "values": value}
        if kept is None:
            taken.append(own)
        else:
            own |= {kind: taken[module.layer_idx][kind] for kind in kept}
        query, key, value = own.values()
        groups = query.shape[1] // key.shape[1]
        scores = query @ repeat_kv(key, groups).mT * scaling
        ahead = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
        p = scores.masked_fill(ahead, -torch.inf).softmax(-1)
        return (p @ repeat_kv(value, groups)).transpose(1, 2).contiguous(), None

    AttentionInterface.register("kept_projections", attend)
    before = model.config._attn_implementation or "eager"
    model.set_attn_implementation("kept_projections")
    yield
    model.set_attn_implementation(before)


@pytest.mark.parametrize("name", ["organism", "llama", "gpt_neox"])
def test_what_is_kept_is_that_of_the_unchanged_pass(name: str) -> None:
    model, resident = family(name)
    heads = [(0, 1), (0, 2), (1, 0)]
    kinds: tuple[Kept, ...] = ("queries", "keys", "values")
    choices = [PATTERNS, frozenset(kinds), *(frozenset({kind}) for kind in kinds)]
    wanted = [HeadChange((head,), kept=kept) for kept in choices for head in heads]
    found = changed(resident, *wanted)
    free = changed(resident, *(HeadChange((head,)) for head in heads)) * len(choices)
    taken: list[dict[str, Tensor]] = []
    with torch.inference_mode():
        with projected(model, taken):
            losses(model)
        for record, other, change in zip(found, free, wanted, strict=True):
            ((layer, head),) = change.heads
            edit = {layer: lambda z, head=head: z[:, :, head].zero_()}
            with projected(model, taken, change.kept), edited(model, edit):
                close(record, losses(model))
            assert record.loss is not None and other.loss is not None
            assert (record.loss - other.loss).abs().max() > 1e-4


@pytest.mark.parametrize("head", [(0, 1), (1, 3), (2, 0)])
@pytest.mark.parametrize("kept", [frozenset(), PATTERNS])
def test_a_changed_pass_records_what_a_changed_model_computes(head, kept) -> None:
    model, resident = family("llama")
    wanted = Pass("x", head_outputs=(2, 0, 1), hidden_states=(3, 0, 1, 2),
                  change=HeadChange((head,), kept=kept))  # fmt: skip
    plain = replace(wanted, head_outputs=(), hidden_states=(), losses=True)
    before = {one.key: forward.run(resident, INPUTS["x"], one) for one in wanted.needs}
    # Another head of that layer, so that the copies of a batch must be told apart.
    beside = replace(wanted, change=HeadChange(((head[0], 2),), kept=kept))
    found = run_changed(resident, INPUTS, [beside, wanted, plain], before)[wanted.key]
    taken: list[dict[str, Tensor]] = []
    streams: list[Tensor] = []
    heads: list[Tensor] = []
    edits = {at: lambda z: heads.append(z.clone()) for at in range(3)}
    layer, which = head

    def edit(z: Tensor) -> None:
        z[:, :, which] = 0
        heads.append(z.clone())

    with torch.inference_mode():
        with projected(model, taken):
            losses(model)
        with (
            projected(model, taken, kept),
            edited(model, edits | {layer: edit}),
            watched(model, streams),
        ):
            model(IDS["x"], use_cache=False)
    assert set(found.head_outputs) == {0, 1, 2} and set(found.hidden_states) == {0, 1, 2, 3}
    for at in range(3):
        torch.testing.assert_close(found.head_outputs[at], heads[at], atol=1e-5, rtol=0)
    for at in range(4):
        torch.testing.assert_close(found.hidden_states[at], streams[at], atol=1e-5, rtol=0)


@contextmanager
def watched(model: PreTrainedModel, streams: list[Tensor]) -> Iterator[None]:
    """Append the stream that enters each block, and the one that leaves the last, to a list."""
    layers = model.model.layers
    handles = [
        *(one.register_forward_pre_hook(lambda _, args: streams.append(args[0])) for one in layers),
        model.model.norm.register_forward_pre_hook(lambda _, args: streams.append(args[0])),
    ]
    yield
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("kept", [False, True])
def test_batches_change_nothing(kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    _, resident = family("llama")
    wanted = [
        HeadChange(((1, head),), "mean", PATTERNS if kept else frozenset()) for head in range(4)
    ]
    whole = changed(resident, *wanted)
    rows: list[int] = []
    real = changes.run

    def counted(resident, input, *rest):
        rows.append(len(input.tokens))
        return real(resident, input, *rest)

    monkeypatch.setattr(changes, "run", counted)
    split = changed(resident, *wanted, limits=Limits(memory_bytes=1))
    assert rows == [(1 + kept) * 3] * 4  # a head at a time, beside an unchanged copy if need be
    for a, b in zip(whole, split, strict=True):
        assert a.loss is not None and b.loss is not None
        torch.testing.assert_close(a.loss, b.loss, atol=1e-6, rtol=0)


def test_padding_is_kept_out_of_means_and_losses() -> None:
    _, resident = family("llama")
    pads = np.zeros((3, 5), dtype=np.int64)
    tokens = np.concatenate([pads, INPUTS["x"].tokens], axis=1)
    seen = np.concatenate([pads, np.ones_like(INPUTS["x"].tokens)], axis=1)
    padded = {"x": Input("x", "array", tokens, {"attention_mask": seen})}
    change = HeadChange(((1, 2),), "mean")
    (alone,), (found,) = changed(resident, change), changed(resident, change, inputs=padded)
    assert found.loss is not None and alone.loss is not None
    assert found.loss[:, :5].isnan().all()
    torch.testing.assert_close(found.loss[:, 5:], alone.loss, atol=1e-5, rtol=0)


def test_attention_cannot_be_frozen_in_code_of_a_models_own() -> None:
    _, resident = family("gptj")
    with pytest.raises(InputError, match="code of its own"):
        changed(resident, HeadChange(((1, 2),), kept=PATTERNS))


def test_a_changed_pass_records_no_attention() -> None:
    wanted = Pass("x", attention=frozenset({Lag(1)}), change=HeadChange(((1, 2),)))
    with pytest.raises(ValueError, match="records no attention"):
        run_changed(family("llama")[1], INPUTS, [wanted], {})
