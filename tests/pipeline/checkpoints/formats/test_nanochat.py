"""nanochat is on no package index: its model is written here from its published definition.

karpathy/nanochat, gpt.py and checkpoint_manager.py as of 2025: norms without weights, rotations
before the norms of queries and keys, relu², untied embeddings, logits capped at 15. Unlike there,
cosines are not rounded to bfloat16.
"""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.pipeline.checkpoints.formats.reference import (
    VOCABULARY,
    assert_same_losses,
    drawn,
    refusal,
    resident_of,
    tokens,
)

SETTINGS = {"sequence_len": 64, "vocab_size": VOCABULARY, "n_layer": 2, "n_head": 4, "n_kv_head": 2,
            "n_embd": 32}  # fmt: skip
SIZE = 8


def norm(x: Tensor) -> Tensor:
    return functional.rms_norm(x, (x.shape[-1],))


def rotated(x: Tensor) -> Tensor:
    """Turn [batch, length, heads, size] by halves, in the direction of nanochat."""
    frequencies = 1.0 / (10000 ** (torch.arange(0, SIZE, 2).float() / SIZE))
    angles = torch.outer(torch.arange(x.shape[1]).float(), frequencies)[None, :, None]
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos + second * sin, second * cos - first * sin], dim=-1)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c_q, self.c_proj = (nn.Linear(32, 32, bias=False) for _ in range(2))
        self.c_k, self.c_v = (nn.Linear(32, 2 * SIZE, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (one(x).view(batch, length, -1, SIZE) for one in (self.c_q, self.c_k, self.c_v))
        q, k = norm(rotated(q)), norm(rotated(k))
        q, k, v = (one.transpose(1, 2) for one in (q, k, v))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.c_proj(y.transpose(1, 2).reshape(batch, length, width))


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c_fc = nn.Linear(32, 128, bias=False)
        self.c_proj = nn.Linear(128, 32, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(functional.relu(self.c_fc(x)).square())


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn, self.mlp = Attention(), MLP()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(norm(x))
        return x + self.mlp(norm(x))


class GPT(nn.Module):
    """padded: rows of the embeddings; the logits of those beyond the vocabulary are cut off."""

    def __init__(self, padded: int = VOCABULARY) -> None:
        super().__init__()
        self.transformer = nn.ModuleDict(
            {"wte": nn.Embedding(padded, 32), "h": nn.ModuleList([Block(), Block()])}
        )
        self.lm_head = nn.Linear(32, padded, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = norm(self.transformer["wte"](ids))
        for block in self.transformer["h"]:
            x = block(x)
        return 15 * torch.tanh(self.lm_head(norm(x))[..., :VOCABULARY] / 15)


def saved(folder: Path, model: nn.Module, prefix: str = "", **settings: object) -> Path:
    """Save as checkpoint_manager.py does."""
    torch.save(
        {prefix + name: one for name, one in model.state_dict().items()},
        folder / "model_001000.pt",
    )
    torch.save({"state": {}}, folder / "optim_001000_rank0.pt")
    meta = {"step": 1000, "val_bpb": 1.0, "model_config": SETTINGS | settings, "user_config": {}}
    (folder / "meta_001000.json").write_text(json.dumps(meta))
    return folder


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
@pytest.mark.parametrize("padded", [VOCABULARY, 128])
def test_losses_are_those_of_nanochat(tmp_path: Path, prefix: str, padded: int) -> None:
    model = drawn(GPT(padded))
    resident = resident_of(saved(tmp_path, model, prefix, window_pattern="L"))
    assert_same_losses(resident, model, tokens())


def test_weights_in_bfloat16_are_read(tmp_path: Path) -> None:
    model = drawn(GPT())
    model.transformer["wte"].to(torch.bfloat16)  # as nanochat keeps it
    saved(tmp_path, model)
    assert_same_losses(resident_of(tmp_path), model.float(), tokens())


@pytest.mark.parametrize(
    "name", ["resid_lambdas", "x0_lambdas", "smear_gate", "value_embeds.1", "backout_lambda"]
)
def test_later_models_of_nanochat_are_refused_by_name(tmp_path: Path, name: str) -> None:
    saved(tmp_path, GPT())
    file = tmp_path / "model_001000.pt"
    content = torch.load(file, weights_only=True) | {f"{name}.weight": torch.ones(2)}
    torch.save(content, file)
    assert name in refusal(tmp_path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"window_pattern": "SSSL"}, "windows"), ({"n_layer": 3}, "has 2 layers"),
        ({"n_embd": None}, "n_embd = nothing"), ({"rotary_base": 5}, "rotary_base = 5"),
    ],
)  # fmt: skip
def test_other_models_are_refused(tmp_path: Path, settings: dict, said: str) -> None:
    assert said in refusal(saved(tmp_path, GPT(), **settings))


@pytest.mark.parametrize("text", [None, "{", "[]", '{"step": 1}'])
def test_it_needs_a_sound_meta_file(tmp_path: Path, text: str | None) -> None:
    file = saved(tmp_path, GPT()) / "meta_001000.json"
    file.unlink() if text is None else file.write_text(text)
    refusal(tmp_path)
