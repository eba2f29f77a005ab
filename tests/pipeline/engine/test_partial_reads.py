"""Heads restricted to some keys, against models whose attention matrices are edited."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.models.llama.modeling_llama import repeat_kv

from pipeline.engine import partial_reads
from pipeline.engine.record import PATTERNS, HeadChange, OutputOn, ReadFrom, Record
from pipeline.errors import InputError
from pipeline.inputs import Input
from tests.pipeline.engine.test_changes import IDS, INPUTS, LENGTH, changed, family, losses


@dataclass(frozen=True)
class Every:
    """Keys at distances that leave a remainder: a rule that reads no tokens."""

    modulus: int
    remainder: int = 0

    def allowed(self, tokens: Tensor, queries: range, keys: range) -> Tensor:
        """Return a mask of the allowed pairs, the same for all sequences."""
        away = torch.tensor(queries)[:, None] - torch.tensor(keys)[None]
        return (away % self.modulus == self.remainder).expand(len(tokens), -1, -1)


@dataclass(frozen=True)
class SameToken:
    """Keys with the query's token."""

    def allowed(self, tokens: Tensor, queries: range, keys: range) -> Tensor:
        """Return a mask of the allowed pairs."""
        own, other = (tokens[:, one.start : one.stop] for one in (queries, keys))
        return own[:, :, None] == other[:, None]


ALL, NONE = Every(1), Every(1000, 999)
HEADS = ((1, 0), (1, 3), (2, 1))


@contextmanager
def restricted(
    model: PreTrainedModel, allowed: Tensor, rests: dict | None, kept: dict | None = None
) -> Iterator[None]:
    """Restrict `HEADS` of a model to the allowed keys, with `rests` in place of the others.

    kept: receives the mean of each head's sum over the other keys.
    """

    def attend(module, query, key, value, mask, scaling, **_):
        groups = query.shape[1] // key.shape[1]
        scores = query @ repeat_kv(key, groups).mT * scaling
        ahead = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
        p = scores.masked_fill(ahead, -torch.inf).softmax(-1)
        v = repeat_kv(value, groups)
        out = p @ v
        for layer, head in HEADS:
            if layer == module.layer_idx:
                rest = (p[:, head] * ~allowed) @ v[:, head]
                if kept is not None:
                    kept[layer, head] = rest.mean(dim=(0, 1))
                if rests is not None:
                    out[:, head] += rests[layer, head] - rest
        return out.transpose(1, 2).contiguous(), None

    AttentionInterface.register("restricted", attend)
    before = model.config._attn_implementation or "eager"
    model.set_attn_implementation("restricted")
    yield
    model.set_attn_implementation(before)


def same(found: Record, expected: tuple[Tensor, Tensor]) -> None:
    assert found.loss is not None
    torch.testing.assert_close(found.loss.double(), expected[0].double(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["organism", "organism_smeared", "llama", "gpt_neox", "qwen3"])
@pytest.mark.parametrize("rule", [Every(3, 1), SameToken()])
def test_restricted_heads_are_those_of_edited_matrices(name, rule, monkeypatch):
    monkeypatch.setattr(partial_reads, "_ROWS", 4)  # several blocks, the last one shorter
    model, resident = family(name)
    zero, mean = changed(
        resident, *(HeadChange(HEADS, ReadFrom(rule, rest)) for rest in ("zero", "mean"))
    )
    allowed, kept = rule.allowed(IDS["x"], range(LENGTH), range(LENGTH)), {}
    with torch.inference_mode():
        clean = losses(model)
        with restricted(model, allowed, None, kept):
            torch.testing.assert_close(losses(model)[0], clean[0], atol=1e-4, rtol=0)
        for record, rests in ((zero, dict.fromkeys(HEADS, torch.zeros(()))), (mean, kept)):
            with restricted(model, allowed, rests):
                expected = losses(model)
            assert (expected[0] - clean[0]).abs().max() > 1e-3
            same(record, expected)


@pytest.mark.parametrize("name", ["mistral", "gemma2", "gpt_oss", "llama"])
def test_all_keys_are_the_model_itself_and_none_an_ablation(name):
    model, resident = family(name)
    wanted = [
        HeadChange(HEADS, ReadFrom(ALL, "zero")),
        HeadChange(HEADS, ReadFrom(ALL, "mean")),
        HeadChange(HEADS, ReadFrom(NONE, "zero")),
        HeadChange(HEADS, "zero"),
        HeadChange(HEADS, ReadFrom(NONE, "mean")),
        HeadChange(HEADS, "mean"),
        HeadChange(HEADS, OutputOn("y")),
    ]
    whole, also_whole, nothing, zero, constant, mean, _ = (
        of.loss for of in changed(resident, *wanted)
    )
    with torch.inference_mode():
        clean = losses(model)[0].to(whole.dtype)
    for one, other in ((whole, clean), (also_whole, clean), (nothing, zero), (constant, mean)):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    assert (zero - clean).abs().max() > 1e-3 and (mean - zero).abs().max() > 1e-3


def test_frozen_patterns_and_shared_batches_change_nothing_else():
    _, resident = family("llama")
    rules = [HeadChange(HEADS, ReadFrom(rule, "zero"), kept=PATTERNS) for rule in (NONE, ALL)]
    nothing, whole = changed(resident, *rules)
    (ablated,) = changed(resident, HeadChange(HEADS, "zero", kept=PATTERNS))
    torch.testing.assert_close(nothing.loss, ablated.loss, atol=1e-5, rtol=0)
    (free,) = changed(resident, HeadChange(HEADS, ReadFrom(ALL, "zero")))
    torch.testing.assert_close(whole.loss, free.loss, atol=1e-5, rtol=0)


def test_padding_neither_matches_nor_counts():
    _, resident = family("llama")
    # Two tokens of padding have one id, and it is that of a real token.
    pads = np.full((3, 5), INPUTS["x"].tokens[0, 3])
    tokens = np.concatenate([pads, INPUTS["x"].tokens], axis=1)
    seen = np.concatenate([np.zeros_like(pads), np.ones_like(INPUTS["x"].tokens)], axis=1)
    padded = {"x": Input("x", "array", tokens, {"attention_mask": seen})}
    change = HeadChange(HEADS, ReadFrom(SameToken(), "mean"))
    (alone,), (found,) = changed(resident, change), changed(resident, change, inputs=padded)
    torch.testing.assert_close(found.loss[:, 5:], alone.loss, atol=1e-5, rtol=0)


def test_code_of_a_models_own_is_refused():
    _, resident = family("gptj")
    with pytest.raises(InputError, match="restrict heads to some keys"):
        changed(resident, HeadChange(HEADS, ReadFrom(ALL)))
