"""nanoGPT is on no package index: its model is written here from its published definition.

karpathy/nanoGPT, model.py and train.py: pre-norm blocks of GPT-2 with torch's GELU, matrices as
nn.Linear, `bias` for all of them and the norms, the unembedding tied, `torch.save` of the
checkpoint with the state of AdamW.
"""

from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.checkpoints.formats import single_file
from pipeline.checkpoints.torch_files import described
from pipeline.errors import CheckpointError
from tests.pipeline.checkpoints.formats.reference import (
    VOCABULARY,
    LocalSource,
    assert_same_losses,
    drawn,
    read,
    refusal,
    resident_of,
    tokens,
)

ARGS = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 64, "bias": True,
        "vocab_size": VOCABULARY, "dropout": 0.1}  # fmt: skip


class Norm(nn.Module):
    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, bias: bool, masked: bool) -> None:
        super().__init__()
        self.c_attn = nn.Linear(width, 3 * width, bias=bias)
        self.c_proj = nn.Linear(width, width, bias=bias)
        self.heads = heads
        if masked:  # without torch's scaled_dot_product_attention
            self.register_buffer("bias", torch.tril(torch.ones(64, 64)).view(1, 1, 64, 64))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, self.heads, -1).transpose(1, 2)
            for part in self.c_attn(x).split(width, dim=2)
        )
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).reshape(batch, length, width))


class MLP(nn.Module):
    def __init__(self, width: int, bias: bool, activation: nn.Module) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width, bias=bias)
        self.gelu = activation
        self.c_proj = nn.Linear(4 * width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.gelu(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, bias: bool, act: nn.Module, masked: bool) -> None:
        super().__init__()
        self.ln_1, self.attn = Norm(width, bias), Attention(width, heads, bias, masked)
        self.ln_2, self.mlp = Norm(width, bias), MLP(width, bias, act)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    def __init__(self, bias: bool = True, approximate: str = "none", masked: bool = False) -> None:
        super().__init__()
        width, act = ARGS["n_embd"], nn.GELU(approximate)
        blocks = [Block(width, ARGS["n_head"], bias, act, masked) for _ in range(ARGS["n_layer"])]
        self.transformer = nn.ModuleDict(
            {"wte": nn.Embedding(VOCABULARY, width), "wpe": nn.Embedding(64, width),
             "h": nn.ModuleList(blocks), "ln_f": Norm(width, bias)}
        )  # fmt: skip
        self.lm_head = nn.Linear(width, VOCABULARY, bias=False)
        self.transformer["wte"].weight = self.lm_head.weight

    def forward(self, ids: Tensor) -> Tensor:
        t = self.transformer
        x = t["wte"](ids) + t["wpe"](torch.arange(ids.shape[1]))
        for block in t["h"]:
            x = block(x)
        return self.lm_head(t["ln_f"](x))


def saved(folder: Path, model: nn.Module, prefix: str = "", **args: object) -> Path:
    """Save as train.py does, after a step of AdamW."""
    folder.mkdir(exist_ok=True)
    model.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(tokens()).logsumexp(-1).mean().backward()
    optimizer.step()
    settings = {name: one for name, one in (ARGS | args).items() if one != "absent"}
    content = {
        "model": {prefix + name: one for name, one in model.state_dict().items()},
        "optimizer": optimizer.state_dict(), "model_args": settings, "iter_num": 1000,
        "best_val_loss": torch.tensor(1.5), "config": {"out_dir": "out", "compile": True},
    }  # fmt: skip
    torch.save(content, folder / "ckpt.pt")
    return folder


@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module.", "_orig_mod.module."])
@pytest.mark.parametrize("bias", [True, False])
def test_losses_are_those_of_nanogpt(tmp_path: Path, prefix: str, bias: bool) -> None:
    model = drawn(GPT(bias))
    resident = resident_of(saved(tmp_path, model, prefix, bias=bias))
    assert_same_losses(resident, model, tokens())
    assert_same_losses(resident, model, tokens(VOCABULARY)[:, :2])


def test_without_bias_in_its_settings_it_has_gelu_new_and_a_mask(tmp_path: Path) -> None:
    model = drawn(GPT(approximate="tanh", masked=True))
    folder = saved(tmp_path, model, bias="absent")
    assert_same_losses(resident_of(folder), model, tokens())
    with pytest.raises(AssertionError):  # the two activations are told apart by the losses
        changed = read(folder)[0] | {"activation_function": "gelu"}
        assert_same_losses(resident_of(folder, changed), model, tokens())


def test_what_is_assumed_of_the_activation_is_said(tmp_path: Path) -> None:
    saved(tmp_path, GPT())
    assert "torch's exact GELU" in single_file.assumed(LocalSource(tmp_path))[0]
    saved(tmp_path, GPT(), bias="absent")
    assert "gelu_new, as without" in single_file.assumed(LocalSource(tmp_path))[0]


def test_settings_may_be_a_namespace(tmp_path: Path) -> None:
    folder = saved(tmp_path, model := drawn(GPT()))
    content = torch.load(folder / "ckpt.pt", weights_only=True)
    content["model_args"] = Namespace(**content["model_args"])
    torch.save(content, folder / "ckpt.pt")
    assert_same_losses(resident_of(folder), model, tokens())


def test_states_of_the_optimizer_are_not_read(tmp_path: Path) -> None:
    """They are two thirds of the file."""
    folder = saved(tmp_path, GPT())
    content, requests = (folder / "ckpt.pt").read_bytes(), []

    def request(start: int, stop: int | None) -> bytes:
        requests.append(content[start:stop])
        return requests[-1]

    described(request, len(content))
    assert sum(map(len, requests)) < 2 * 2**16 + 2**15 < len(content)
    weights = sum(one.nbytes for one in read(folder)[1].values())
    assert weights < 0.4 * len(content)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"use_rmsnorm": True}, "use_rmsnorm"), ({"n_kv_head": 2}, "n_kv_head"),
        ({"n_layer": "absent"}, "n_layer = nothing"), ({"n_embd": 32.0}, "n_embd = 32.0"),
        ({"n_head": -4}, "n_head = -4"), ({"vocab_size": 2**50}, "vocab_size"),
        ({"bias": 1}, "bias = 1"), ({"block_size": True}, "block_size = True"),
    ],
)  # fmt: skip
def test_other_models_are_refused(tmp_path: Path, args: dict, said: str) -> None:
    assert said in refusal(saved(tmp_path, GPT(), **args))


def test_a_missing_bias_is_none_of_zeros(tmp_path: Path) -> None:
    saved(tmp_path, GPT())
    content = torch.load(tmp_path / "ckpt.pt", weights_only=True)
    del content["model"]["transformer.h.1.mlp.c_fc.bias"]
    torch.save(content, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match=r"missing: transformer\.h\.1\.mlp\.c_fc\.bias"):
        resident_of(tmp_path)


def test_a_tensor_of_another_model_is_named(tmp_path: Path) -> None:
    model = GPT()
    model.transformer["h"][1].attn.rotary = nn.Linear(2, 2)
    saved(tmp_path, model)
    assert "transformer.h.1.attn.rotary.weight" in refusal(tmp_path)
