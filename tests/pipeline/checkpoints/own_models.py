"""Small transformers in plain torch, as people write them: the forward passes are the oracles."""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

V, D, HEADS, D_MLP, CONTEXT, LAYERS = 19, 12, 3, 20, 8, 2


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax(q k / sqrt(d)) v over earlier positions; [..., position, d_head] each."""
    hidden = torch.ones(q.shape[-2], q.shape[-2]).triu(1).bool()
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(hidden, -torch.inf)
    return scores.softmax(-1) @ v


def in_heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


class FusedAttention(nn.Module):
    def __init__(self, bias: bool):
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(D, 3 * D, bias=bias), nn.Linear(D, D, bias=bias)
        self.register_buffer("bias", torch.ones(CONTEXT, CONTEXT).tril()[None, None])

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.c_attn(x).chunk(3, dim=-1)
        return self.c_proj(joined(causal(in_heads(q), in_heads(k), in_heads(v))))


class FusedBlock(nn.Module):
    def __init__(self, bias: bool):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(D, bias=bias), nn.LayerNorm(D, bias=bias)
        self.attn = FusedAttention(bias)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(D, D_MLP, bias=bias),
                                  "c_proj": nn.Linear(D_MLP, D, bias=bias)})  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x))))


class NanoGPT(nn.Module):
    """A model with nanoGPT's names, whose unembedding is tied."""

    def __init__(self, bias: bool):
        super().__init__()
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(V, D), "wpe": nn.Embedding(CONTEXT, D),
            "h": nn.ModuleList(FusedBlock(bias) for _ in range(LAYERS)),
            "ln_f": nn.LayerNorm(D, bias=bias),
        })  # fmt: skip
        self.lm_head = nn.Linear(D, V, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.transformer["wte"](tokens) + self.transformer["wpe"].weight
        for block in self.transformer["h"]:
            x = block(x)
        return self.lm_head(self.transformer["ln_f"](x))


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.key, self.query, self.value = (nn.Linear(D, D // HEADS, bias=False) for _ in "kqv")
        self.register_buffer("tril", torch.ones(CONTEXT, CONTEXT).tril())

    def forward(self, x: Tensor) -> Tensor:
        return causal(self.query(x), self.key(x), self.value(x))


class SeparateHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads, self.proj = nn.ModuleList(Head() for _ in range(HEADS)), nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(torch.cat([head(x) for head in self.heads], dim=-1))


class FeedForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(D, D_MLP), nn.ReLU(), nn.Linear(D_MLP, D))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class LectureBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.sa, self.ffwd = SeparateHeads(), FeedForward()
        self.ln1, self.ln2 = nn.LayerNorm(D), nn.LayerNorm(D)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.sa(self.ln1(x))
        return x + self.ffwd(self.ln2(x))


class Lecture(nn.Module):
    """A model with the names of ng-video-lecture, with modules for each head."""

    def __init__(self):
        super().__init__()
        self.token_embedding_table = nn.Embedding(V, D)
        self.position_embedding_table = nn.Embedding(CONTEXT, D)
        self.blocks = nn.Sequential(*(LectureBlock() for _ in range(LAYERS)))
        self.ln_f, self.lm_head = nn.LayerNorm(D), nn.Linear(D, V)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token_embedding_table(tokens) + self.position_embedding_table.weight
        return self.lm_head(self.ln_f(self.blocks(x)))


class Encoder(nn.Module):
    """A causal nn.TransformerEncoder, with embeddings and an output of one's own."""

    def __init__(self, norm_first: bool = True):
        super().__init__()
        self.tok, self.pos = nn.Embedding(V, D), nn.Parameter(torch.randn(1, CONTEXT, D))
        layer = nn.TransformerEncoderLayer(
            D, HEADS, D_MLP, dropout=0.0, activation="gelu", batch_first=True, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.ln, self.out = nn.LayerNorm(D), nn.Linear(D, V)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(CONTEXT, dtype=self.pos.dtype)
        return self.out(self.ln(self.encoder(self.tok(tokens) + self.pos, mask, is_causal=True)))


class Bare(nn.Module):
    """Attention only, x @ W with matrices of one's own; queries, keys and values by head."""

    def __init__(self):
        super().__init__()
        self.emb, self.pe = nn.Parameter(torch.randn(V, D)), nn.Parameter(torch.randn(CONTEXT, D))
        self.qkv = nn.ParameterList(torch.randn(D, 3 * D) / D**0.5 for _ in range(LAYERS))
        self.o = nn.ParameterList(torch.randn(D, D) / D**0.5 for _ in range(LAYERS))
        self.u = nn.Parameter(torch.randn(D, V) / D**0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.emb[tokens] + self.pe
        for qkv, o in zip(self.qkv, self.o, strict=True):
            q, k, v = (x @ qkv).unflatten(-1, (HEADS, 3, -1)).transpose(1, 2).unbind(3)
            x = x + joined(causal(q, k, v)) @ o
        return x @ self.u


def turned(x: Tensor) -> Tensor:
    """Return rotated queries or keys: pairs of dimensions i and i + d/2; [..., position, d]."""
    half = x.shape[-1] // 2
    rates = 10_000.0 ** (-torch.arange(half, dtype=x.dtype) / half)
    angles = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * rates
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)


class ModernBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(D, D, bias=False) for _ in "qkvo")
        self.gate, self.up = nn.Linear(D, D_MLP, bias=False), nn.Linear(D, D_MLP, bias=False)
        self.down = nn.Linear(D_MLP, D, bias=False)
        self.n1, self.n2 = nn.RMSNorm(D, eps=1e-6), nn.RMSNorm(D, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.n1(x)
        q, k, v = in_heads(self.q(h)), in_heads(self.k(h)), in_heads(self.v(h))
        x = x + self.o(joined(causal(turned(q), turned(k), v)))
        h = self.n2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Modern(nn.Module):
    """A model with RMS norms, rotary positions, gated MLPs and a tied unembedding."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Embedding(V, D), nn.RMSNorm(D, eps=1e-6)
        self.layers = nn.ModuleList(ModernBlock() for _ in range(LAYERS))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x) @ self.embed.weight.T


def drawn(model: nn.Module, seed: int = 0) -> nn.Module:
    """Return the model in float64 with every parameter drawn anew, so that none is 0 or 1."""
    g = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=g) * 0.4
    return model.double().eval()


def tokens() -> Tensor:
    return torch.randint(0, V, (4, CONTEXT), generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def loss_of(model: Callable[[Tensor], Tensor]) -> float:
    """Return the mean loss (nats) of a model's own forward pass."""
    logits, ids = model(tokens()), tokens()
    return float(F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()))
