"""Names of tensors in one's own models, and the axes with which code usually stores them.

Places are TransformerLens' names, with `{}` for a block's number. It has no fused queries, keys and
values: `attn.W_QKV` and `attn.b_QKV` are those.

Sources: `nanogpt`: model.py of karpathy/nanoGPT and karpathy/minGPT, whose attention is a fused
nn.Linear; `gpt-lecture`: gpt.py of karpathy/ng-video-lecture, with modules for each head; layers of
PyTorch: torch/nn/modules/transformer.py and activation.py, whose `in_proj_weight` holds queries,
keys and values one after another.
"""

from collections.abc import Mapping
from dataclasses import dataclass

# The orders of axes for a place: as in TransformerLens first, then all in which it may be stored.
# "out in" are those of nn.Linear, "in out" those of x @ W; "" fits neither or both.
OUT_IN, IN_OUT, OTHER = "out_in", "in_out", ""


@dataclass(frozen=True)
class Place:
    """A place in a model: its axes, one by one, and the ways in which files may store them.

    stored: pairs of axes, in the notation of `tensor_axes`, and of OUT_IN, IN_OUT or OTHER.
    """

    axes: str
    stored: tuple[tuple[str, str], ...]


def _plain(axes: str) -> Place:
    return Place(axes, ((axes, OTHER),))


def _matrix(out: str, into: str) -> Place:
    return Place(f"{into} {out}", ((f"{out} {into}", OUT_IN), (f"{into} {out}", IN_OUT)))


_HEAD = Place(
    "n_heads d_model d_head",
    (
        ("(n_heads d_head) d_model", OUT_IN),
        ("d_model (n_heads d_head)", IN_OUT),
        ("n_heads d_head d_model", OUT_IN),
        ("n_heads d_model d_head", IN_OUT),
    ),
)
_HEAD_BIAS = Place("n_heads d_head", (("(n_heads d_head)", OTHER), ("n_heads d_head", OTHER)))
_FUSED = Place(
    "qkv n_heads d_model d_head",
    tuple(
        (axes, way)
        for joined in ("(qkv n_heads d_head)", "(n_heads qkv d_head)")
        for axes, way in ((f"{joined} d_model", OUT_IN), (f"d_model {joined}", IN_OUT))
    ),
)
_FUSED_BIAS = Place(
    "qkv n_heads d_head",
    (("(qkv n_heads d_head)", OTHER), ("(n_heads qkv d_head)", OTHER)),
)
_OUTPUT = Place(
    "n_heads d_head d_model",
    (
        ("d_model (n_heads d_head)", OUT_IN),
        ("(n_heads d_head) d_model", IN_OUT),
        ("d_model n_heads d_head", OUT_IN),
        ("n_heads d_head d_model", IN_OUT),
    ),
)

PLACES: Mapping[str, Place] = {
    "embed.W_E": Place("d_vocab d_model", (("d_vocab d_model", OUT_IN), ("d_vocab d_model", IN_OUT),
                                           ("d_model d_vocab", OTHER))),
    "pos_embed.W_pos": Place("n_ctx d_model", (("n_ctx d_model", OTHER), ("1 n_ctx d_model", OTHER),
                                               ("n_ctx 1 d_model", OTHER))),
    **{f"blocks.{{}}.attn.W_{one}": _HEAD for one in "QKV"},
    **{f"blocks.{{}}.attn.b_{one}": _HEAD_BIAS for one in "QKV"},
    "blocks.{}.attn.W_QKV": _FUSED,
    "blocks.{}.attn.b_QKV": _FUSED_BIAS,
    "blocks.{}.attn.W_O": _OUTPUT,
    "blocks.{}.attn.b_O": _plain("d_model"),
    "blocks.{}.attn.mask": Place("query key", (("query key", OTHER), ("1 query key", OTHER),
                                               ("1 1 query key", OTHER))),
    "blocks.{}.mlp.W_in": _matrix("d_mlp", "d_model"),
    "blocks.{}.mlp.W_gate": _matrix("d_mlp", "d_model"),
    "blocks.{}.mlp.b_in": _plain("d_mlp"),
    "blocks.{}.mlp.W_out": _matrix("d_model", "d_mlp"),
    "blocks.{}.mlp.b_out": _plain("d_model"),
    **{f"blocks.{{}}.{norm}.{part}": _plain("d_model") for norm in ("ln1", "ln2") for part in "wb"},
    "ln_final.w": _plain("d_model"),
    "ln_final.b": _plain("d_model"),
    "unembed.W_U": _matrix("d_vocab_out", "d_model"),
    "unembed.b_U": _plain("d_vocab_out"),
}  # fmt: skip

_ROWS = "(qkv n_heads d_head)"  # queries, keys and values one after another


def _linear(name: str, axes: str) -> dict[str, str]:
    return {"name": name, "axes": axes}


def _layer_norm(theirs: str, ours: str) -> dict[str, str]:
    return {f"{theirs}.weight": f"{ours}.w", f"{theirs}.bias": f"{ours}.b"}


def _attention(block: str) -> dict[str, str | dict[str, str]]:
    return {
        "in_proj_weight": _linear(f"{block}attn.W_QKV", f"{_ROWS} d_model"),
        "in_proj_bias": _linear(f"{block}attn.b_QKV", _ROWS),
        "out_proj.weight": _linear(f"{block}attn.W_O", "d_model (n_heads d_head)"),
        "out_proj.bias": f"{block}attn.b_O",
    }


_BLOCK = "blocks.{}."

# Modules of PyTorch: their tensors, by the names within them.
MODULES: Mapping[str, Mapping[str, str | dict[str, str]]] = {
    "nn.MultiheadAttention": _attention(_BLOCK),
    "nn.TransformerEncoderLayer": {
        **{f"self_attn.{name}": place for name, place in _attention(_BLOCK).items()},
        "linear1.weight": _linear(f"{_BLOCK}mlp.W_in", "d_mlp d_model"),
        "linear1.bias": f"{_BLOCK}mlp.b_in",
        "linear2.weight": _linear(f"{_BLOCK}mlp.W_out", "d_model d_mlp"),
        "linear2.bias": f"{_BLOCK}mlp.b_out",
        **_layer_norm("norm1", f"{_BLOCK}ln1"),
        **_layer_norm("norm2", f"{_BLOCK}ln2"),
    },
}
# Their arguments that the tensors do not show.
ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "nn.MultiheadAttention": ("attention_dir",),
    "nn.TransformerEncoderLayer": ("attention_dir", "norm_first"),
}


def _nanogpt(body: str) -> dict[str, str | dict[str, str]]:
    h = f"{body}h.{{}}."
    return {
        f"{body}wte.weight": _linear("embed.W_E", "d_vocab d_model"),
        f"{body}wpe.weight": "pos_embed.W_pos",
        f"{h}attn.c_attn.weight": _linear(f"{_BLOCK}attn.W_QKV", f"{_ROWS} d_model"),
        f"{h}attn.c_attn.bias": _linear(f"{_BLOCK}attn.b_QKV", _ROWS),
        f"{h}attn.c_proj.weight": _linear(f"{_BLOCK}attn.W_O", "d_model (n_heads d_head)"),
        f"{h}attn.c_proj.bias": f"{_BLOCK}attn.b_O",
        f"{h}attn.bias": f"{_BLOCK}attn.mask",
        f"{h}mlp.c_fc.weight": _linear(f"{_BLOCK}mlp.W_in", "d_mlp d_model"),
        f"{h}mlp.c_fc.bias": f"{_BLOCK}mlp.b_in",
        f"{h}mlp.c_proj.weight": _linear(f"{_BLOCK}mlp.W_out", "d_model d_mlp"),
        f"{h}mlp.c_proj.bias": f"{_BLOCK}mlp.b_out",
        **_layer_norm(f"{h}ln_1", f"{_BLOCK}ln1"),
        **_layer_norm(f"{h}ln_2", f"{_BLOCK}ln2"),
        **_layer_norm(f"{body}ln_f", "ln_final"),
        "lm_head.weight": _linear("unembed.W_U", "d_vocab_out d_model"),
        "lm_head.bias": "unembed.b_U",
    }


_LECTURE: dict[str, str | dict[str, str]] = {
    "token_embedding_table.weight": _linear("embed.W_E", "d_vocab d_model"),
    "position_embedding_table.weight": "pos_embed.W_pos",
    **{
        f"blocks.{{}}.sa.heads.{{head}}.{name}.weight": _linear(
            f"{_BLOCK}attn.W_{name[0].upper()}", "d_head d_model"
        )
        for name in ("query", "key", "value")
    },
    "blocks.{}.sa.heads.{head}.tril": f"{_BLOCK}attn.mask",
    "blocks.{}.sa.proj.weight": _linear(f"{_BLOCK}attn.W_O", "d_model (n_heads d_head)"),
    "blocks.{}.sa.proj.bias": f"{_BLOCK}attn.b_O",
    "blocks.{}.ffwd.net.0.weight": _linear(f"{_BLOCK}mlp.W_in", "d_mlp d_model"),
    "blocks.{}.ffwd.net.0.bias": f"{_BLOCK}mlp.b_in",
    "blocks.{}.ffwd.net.2.weight": _linear(f"{_BLOCK}mlp.W_out", "d_model d_mlp"),
    "blocks.{}.ffwd.net.2.bias": f"{_BLOCK}mlp.b_out",
    **_layer_norm("blocks.{}.ln1", f"{_BLOCK}ln1"),
    **_layer_norm("blocks.{}.ln2", f"{_BLOCK}ln2"),
    **_layer_norm("ln_f", "ln_final"),
    "lm_head.weight": _linear("unembed.W_U", "d_vocab_out d_model"),
    "lm_head.bias": "unembed.b_U",
}

# Code of one's own with nanoGPT's names may lack the `transformer` around them.
BUILT_IN: Mapping[str, Mapping[str, str | dict[str, str]]] = {
    "nanogpt": {**_nanogpt("transformer."), **_nanogpt("")},
    "gpt-lecture": _LECTURE,
}
TRANSFORMERLENS = "transformerlens"  # names that are the places themselves

# Names of sizes in configs of one's own code, by TransformerLens' names.
SIZES: Mapping[str, str] = {
    **dict.fromkeys(("n_layer", "num_layers", "num_hidden_layers", "depth"), "n_layers"),
    **dict.fromkeys(("n_head", "num_heads", "nhead", "num_attention_heads"), "n_heads"),
    **dict.fromkeys(("n_embd", "dim_model", "embed_dim", "hidden_size"), "d_model"),
    **dict.fromkeys(("block_size", "max_seq_len", "context_length", "max_len"), "n_ctx"),
    **dict.fromkeys(("d_ff", "dim_feedforward", "mlp_dim", "intermediate_size"), "d_mlp"),
    "vocab_size": "d_vocab",
}
# Fields without effect in evaluation, or that the tensors show.
HARMLESS = frozenset({"dropout", "bias", "attn_pdrop", "resid_pdrop", "embd_pdrop", "batch_first"})
