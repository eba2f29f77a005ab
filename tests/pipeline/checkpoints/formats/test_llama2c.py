"""llama2.c is on no package index: its model is written here from its published definition.

karpathy/llama2.c, model.py and train.py: a Llama whose rotations turn neighbouring numbers, with
the unembedding tied.
"""

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

ARGS = {"dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": VOCABULARY,
        "multiple_of": 8, "max_seq_len": 64, "dropout": 0.0}  # fmt: skip
HIDDEN = 88  # int(2 * 4 * 32 / 3) = 85, rounded up to a multiple of 8


class RMSNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(ARGS["dim"]))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


def rotated(x: Tensor) -> Tensor:
    """Turn neighbouring numbers of [batch, length, heads, size] by an angle for each position."""
    length, size = x.shape[1], x.shape[3]
    frequencies = 1.0 / (10000.0 ** (torch.arange(0, size, 2).float() / size))
    angles = torch.outer(torch.arange(length).float(), frequencies)[None, :, None]
    turned = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * torch.polar(
        torch.ones_like(angles), angles
    )
    return torch.view_as_real(turned).flatten(3)


class Attention(nn.Module):
    def __init__(self, kv: int) -> None:
        super().__init__()
        width, self.size, self.kv = ARGS["dim"], ARGS["dim"] // ARGS["n_heads"], kv
        self.wq, self.wo = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.wk, self.wv = (nn.Linear(width, kv * self.size, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q = rotated(self.wq(x).view(batch, length, -1, self.size))
        k = rotated(self.wk(x).view(batch, length, self.kv, self.size))
        v = self.wv(x).view(batch, length, self.kv, self.size)
        k, v = (one.repeat_interleave(ARGS["n_heads"] // self.kv, dim=2) for one in (k, v))
        q, k, v = (one.transpose(1, 2) for one in (q, k, v))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.wo(y.transpose(1, 2).reshape(batch, length, width))


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w3 = (nn.Linear(ARGS["dim"], HIDDEN, bias=False) for _ in range(2))
        self.w2 = nn.Linear(HIDDEN, ARGS["dim"], bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(functional.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    def __init__(self, kv: int) -> None:
        super().__init__()
        self.attention, self.feed_forward = Attention(kv), FeedForward()
        self.attention_norm, self.ffn_norm = RMSNorm(), RMSNorm()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.ffn_norm(x))


class Transformer(nn.Module):
    def __init__(self, kv: int = 2) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(VOCABULARY, ARGS["dim"])
        self.layers = nn.ModuleList(Block(kv) for _ in range(ARGS["n_layers"]))
        self.norm = RMSNorm()
        self.output = nn.Linear(ARGS["dim"], VOCABULARY, bias=False)
        self.tok_embeddings.weight = self.output.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tok_embeddings(ids)
        for layer in self.layers:
            x = layer(x)
        return self.output(self.norm(x))


def saved(folder: Path, model: nn.Module, prefix: str = "", **args: object) -> Path:
    """Save as train.py does."""
    content = {
        "model": {prefix + name: one for name, one in model.state_dict().items()},
        "optimizer": torch.optim.AdamW(model.parameters()).state_dict(),
        "model_args": ARGS | args, "iter_num": 5, "best_val_loss": 2.0, "config": {"device": "cpu"},
    }  # fmt: skip
    torch.save(content, folder / "ckpt.pt")
    return folder


@pytest.mark.parametrize(("kv", "said"), [(2, 2), (4, 4), (4, None), (1, 1)])
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_losses_are_those_of_llama2c(tmp_path: Path, kv: int, said: int, prefix: str) -> None:
    model = drawn(Transformer(kv))
    resident = resident_of(saved(tmp_path, model, prefix, n_kv_heads=said))
    assert_same_losses(resident, model, tokens())


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"n_heads": 0}, "n_heads = 0"), ({"lora_modules": {"wq": 1}}, "lora_modules"),
        ({"norm_eps": float("nan")}, "norm_eps"), ({"n_heads": 5}, "5 heads"),
        ({"dim": "32"}, "dim = '32'"),
    ],
)  # fmt: skip
def test_other_models_are_refused(tmp_path: Path, args: dict, said: str) -> None:
    assert said in refusal(saved(tmp_path, Transformer(), **args))


def test_settings_of_llama2c_with_other_tensors_are_refused(tmp_path: Path) -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2)})
    assert "not its tensors" in refusal(saved(tmp_path, model))
