"""TransformerLens' models with rotary positions: the numbers of its formulas, or a refusal by name.

`lens_loss` is the forward pass of a HookedTransformer with rotary positions in plain torch.
"""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from tests.pipeline.checkpoints.test_hooked_config import (
    D_HEAD,
    D_MLP,
    LAYERS,
    N_CTX,
    TOKENS,
    D,
    V,
)
from tests.pipeline.checkpoints.test_hooked_config import config as lens_config
from tests.pipeline.checkpoints.test_hooked_config import state as lens_state
from tests.pipeline.checkpoints.test_own_names import as_read, refusal

BASE = 50.0  # so that all dimensions turn within a few positions


def config(**changes) -> dict:
    rotary = {"positional_embedding_type": "rotary", "rotary_dim": D_HEAD, "rotary_base": BASE}
    return lens_config(**rotary, d_vocab=V, **changes)


def sines(dim: int) -> tuple[Tensor, Tensor]:
    """Return TransformerLens' tables, [n_ctx, dim] each: frequencies, then the same again."""
    frequencies = BASE ** (torch.arange(dim // 2, dtype=torch.float64) / (dim / 2))
    angles = torch.arange(N_CTX)[:, None] / torch.cat([frequencies, frequencies])
    return angles.sin(), angles.cos()


def state(cfg: dict) -> dict[str, Tensor]:
    """Return a state dict as TransformerLens saves it for such a model."""
    norm = cfg["normalization_type"]
    made = {n: t.double() for n, t in lens_state(not norm.endswith("Pre")).items()
            if n != "pos_embed.W_pos"}  # fmt: skip
    if norm == "RMS":
        made = {n: t for n, t in made.items() if ".ln" not in f".{n}" or n.endswith(".w")}
    made["unembed.b_U"] = torch.zeros(V, dtype=torch.float64)
    sin, cos = sines(cfg["rotary_dim"])
    g = torch.Generator().manual_seed(3)
    for layer in range(LAYERS):
        made[f"blocks.{layer}.attn.rotary_sin"] = sin.float()
        made[f"blocks.{layer}.attn.rotary_cos"] = cos.float()
        if cfg["gated_mlp"]:
            made[f"blocks.{layer}.mlp.W_gate"] = torch.randn(D, D_MLP, generator=g).double()
            made[f"blocks.{layer}.mlp.b_in"] = torch.zeros(D_MLP, dtype=torch.float64)
    return made


def lens_logits(w: dict[str, Tensor], cfg: dict, tokens: Tensor) -> Tensor:
    norm_type, dim = cfg["normalization_type"], cfg["rotary_dim"]
    sin, cos = sines(dim)
    hidden = torch.ones(N_CTX, N_CTX).triu(1).bool()

    def norm(x: Tensor, name: str) -> Tensor:
        x = x if norm_type.startswith("RMS") else x - x.mean(-1, keepdim=True)
        x = x / (x.pow(2).mean(-1, keepdim=True) + cfg["eps"]).sqrt()
        x = x if norm_type.endswith("Pre") else x * w[f"{name}.w"]
        return x + w[f"{name}.b"] if norm_type == "LN" else x

    def turned(x: Tensor) -> Tensor:
        part, rest = x[..., :dim], x[..., dim:]
        swapped = torch.cat([-part[..., dim // 2 :], part[..., : dim // 2]], -1)
        return torch.cat([part * cos + swapped * sin, rest], -1)

    def neurons(x: Tensor, b: str) -> Tensor:
        if not cfg["gated_mlp"]:
            return F.gelu(x @ w[f"{b}.mlp.W_in"] + w[f"{b}.mlp.b_in"])
        return F.silu(x @ w[f"{b}.mlp.W_gate"]) * (x @ w[f"{b}.mlp.W_in"]) + w[f"{b}.mlp.b_in"]

    x = w["embed.W_E"][tokens]
    for layer in range(LAYERS):
        b = f"blocks.{layer}"
        normed = norm(x, f"{b}.ln1")
        q, k, v = (
            torch.einsum("btd,hde->bhte", normed, w[f"{b}.attn.W_{n}"])
            + w[f"{b}.attn.b_{n}"][:, None]
            for n in "QKV"
        )
        scores = turned(q) @ turned(k).mT / D_HEAD**0.5
        z = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v
        attended = torch.einsum("bhte,hed->btd", z, w[f"{b}.attn.W_O"]) + w[f"{b}.attn.b_O"]
        mid = x + attended
        entering = norm(x if cfg["parallel_attn_mlp"] else mid, f"{b}.ln2")
        x = mid + neurons(entering, b) @ w[f"{b}.mlp.W_out"] + w[f"{b}.mlp.b_out"]
    return norm(x, "ln_final") @ w["unembed.W_U"] + w["unembed.b_U"]


@torch.no_grad()
def losses(logits: Tensor, tokens: Tensor) -> list[float]:
    """Return the loss (nats) of each token but the first of each sequence."""
    of_each = F.cross_entropy(logits[:, :-1].mT, tokens[:, 1:], reduction="none")
    return of_each.flatten().tolist()


READ = {
    "LN": {}, "LNPre": {"normalization_type": "LNPre"}, "parallel": {"parallel_attn_mlp": True},
    "part of each head": {"rotary_dim": D_HEAD // 2},
    "RMS": {"normalization_type": "RMS", "gated_mlp": True, "act_fn": "silu"},
    "RMSPre": {"normalization_type": "RMSPre", "gated_mlp": True, "act_fn": "silu"},
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_a_model_with_rotary_positions_has_the_loss_of_the_formulas(
    name: str, tmp_path: Path
) -> None:
    cfg = config(**READ[name]) if name != "part of each head" else {**config(), **READ[name]}
    weights = state(cfg)
    torch.save({"model": weights, "epoch": 1000, "config": cfg}, tmp_path / "1000.pth")
    tokens = torch.from_numpy(TOKENS)
    expected, found = lens_logits(weights, cfg, tokens), as_read(tmp_path, {})(tokens)
    assert losses(found, tokens) == pytest.approx(losses(expected, tokens), rel=1e-5)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rotary_adjacent_pairs": True}, "rotary_adjacent_pairs"),
        ({"normalization_type": "RMS"}, "'rotary' with normalization_type = 'RMS', gated_mlp = Fa"),
        ({"gated_mlp": True}, "'rotary' with normalization_type = 'LN', gated_mlp = True"),
        ({"rotary_base": 10_000}, "is not that of rotary_base = 10000"),
        ({"act_fn": "solu_ln"}, "act_fn = 'solu_ln': no organism has it"),
        ({"attn_scale": 0.7}, "attn_scale = 0.7"),
        ({"use_NTK_by_parts_rope": True}, "use_NTK_by_parts_rope = True"),
        ({"n_ctx": 9}, "n_ctx"),
    ],
)
def test_other_models_with_rotary_positions_are_refused_by_name(
    changes: dict, says: str, tmp_path: Path
) -> None:
    cfg = {**config(), **changes}
    torch.save({"model": state(cfg), "epoch": 7, "config": cfg}, tmp_path / "7.pth")
    said = refusal(tmp_path, {})
    assert "7.pth: " in said and says in said and "save the whole model" not in said


def test_a_bias_that_the_family_lacks_is_refused(tmp_path: Path) -> None:
    cfg = config()
    torch.save({"model": {**state(cfg), "unembed.b_U": torch.ones(V)}, "epoch": 7, "config": cfg},
               tmp_path / "7.pth")  # fmt: skip
    assert "the tensor 'unembed.b_U' is not 0" in refusal(tmp_path, {})


@pytest.mark.parametrize(
    ("changes", "tensors", "says"),
    [
        ({"act_fn": "solu_ln"}, {"mlp.ln.w": D_MLP}, "act_fn = 'solu_ln': no organism has it"),
        ({"gated_mlp": True}, {"mlp.W_gate": (D, D_MLP)}, "gated_mlp = True: organisms compute"),
        ({"normalization_type": "RMS"}, {}, "normalization_type = 'RMS': no organism has it"),
        ({"positional_embedding_type": "alibi"}, {}, "positional_embedding_type = 'alibi': no org"),
        (None, {"mlp.ln.w": D_MLP}, "so that act_fn is solu_ln or gelu_ln"),
        (None, {"mlp.W_gate": (D, D_MLP)}, "gated_mlp = True: organisms compute"),
    ],
)
def test_a_model_that_no_organism_computes_is_refused_by_name(
    changes: dict | None, tensors: dict, says: str, tmp_path: Path
) -> None:
    """The tensors are those of such models, and say so where there is no config."""
    saved = lens_state()
    if changes is not None and changes.get("normalization_type") == "RMS":
        saved = {n: t for n, t in saved.items() if ".ln" not in f".{n}" or n.endswith(".w")}
    for layer in range(LAYERS):
        saved |= {f"blocks.{layer}.{name}": torch.ones(shape) for name, shape in tensors.items()}
    cfg = {} if changes is None else {"config": lens_config(**changes)}
    torch.save({"model": saved, "epoch": 7, **cfg}, tmp_path / "7.pth")
    assert says in refusal(tmp_path, {})
