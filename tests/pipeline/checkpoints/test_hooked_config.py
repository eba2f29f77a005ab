"""TransformerLens' config, field by field: the numbers are those of its own formulas, or there are
none. `lens_loss` is the forward pass of a HookedTransformer in plain torch.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from pipeline import Analysis, analyze, open_run
from pipeline.errors import InputError

V, D, HEADS, D_HEAD, D_MLP, N_CTX = 17, 12, 3, 4, 20, 8
LAYERS = 2
TOKENS = np.random.default_rng(0).integers(0, V, (4, N_CTX))
EARLY_LATE = {"early_token": 2, "late_token": 6}


def config(**changes) -> dict:
    """Return all fields that TransformerLens 2.15 stores, of a model with two layers."""
    return {
        "n_layers": LAYERS, "d_model": D, "n_ctx": N_CTX, "d_head": D_HEAD, "model_name": "custom",
        "n_heads": HEADS, "d_mlp": D_MLP, "act_fn": "gelu", "d_vocab": V, "eps": 1e-5,
        "use_attn_result": False, "use_attn_scale": True, "attn_scale": math.sqrt(D_HEAD),
        "use_split_qkv_input": False, "use_hook_mlp_in": False, "use_attn_in": False,
        "use_local_attn": False, "ungroup_grouped_query_attention": False,
        "original_architecture": None, "from_checkpoint": False, "checkpoint_index": None,
        "checkpoint_label_type": None, "checkpoint_value": None, "tokenizer_name": None,
        "window_size": None, "attn_types": None, "init_mode": "gpt2", "normalization_type": "LN",
        "device": "cpu", "n_devices": 1, "attention_dir": "causal", "attn_only": False, "seed": 3,
        "initializer_range": 0.23, "init_weights": True, "scale_attn_by_inverse_layer_idx": False,
        "positional_embedding_type": "standard", "final_rms": False, "d_vocab_out": V,
        "parallel_attn_mlp": False, "rotary_dim": None, "n_params": 999, "use_hook_tokens": False,
        "gated_mlp": False, "default_prepend_bos": True, "dtype": torch.float32,
        "tokenizer_prepends_bos": None, "n_key_value_heads": None, "post_embedding_ln": False,
        "rotary_base": 10000, "trust_remote_code": False, "rotary_adjacent_pairs": False,
        "load_in_4bit": False, "num_experts": None, "experts_per_token": None,
        "relative_attention_max_distance": None, "relative_attention_num_buckets": None,
        "decoder_start_token_id": None, "tie_word_embeddings": False,
        "use_normalization_before_and_after": False, "attn_scores_soft_cap": -1.0,
        "output_logits_soft_cap": -1.0, "use_NTK_by_parts_rope": False,
        "NTK_by_parts_low_freq_factor": 1.0, "NTK_by_parts_high_freq_factor": 4.0,
        "NTK_by_parts_factor": 8.0, "NTK_original_ctx_len": 8192,
    } | changes  # fmt: skip


def state(norm: bool = True, mlp: bool = True, seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    shapes = {"embed.W_E": (V, D), "pos_embed.W_pos": (N_CTX, D), "unembed.W_U": (D, V),
              "unembed.b_U": (V,)}  # fmt: skip
    norms = ["ln_final"] if norm else []
    for layer in range(LAYERS):
        block = f"blocks.{layer}"
        shapes |= {f"{block}.attn.W_{n}": (HEADS, D, D_HEAD) for n in "QKV"}
        shapes |= {f"{block}.attn.b_{n}": (HEADS, D_HEAD) for n in "QKV"}
        shapes |= {f"{block}.attn.W_O": (HEADS, D_HEAD, D), f"{block}.attn.b_O": (D,)}
        if mlp:
            shapes |= {f"{block}.mlp.W_in": (D, D_MLP), f"{block}.mlp.b_in": (D_MLP,),
                       f"{block}.mlp.W_out": (D_MLP, D), f"{block}.mlp.b_out": (D,)}  # fmt: skip
        norms += [f"{block}.ln{n}" for n in ((1, 2) if mlp else (1,)) if norm]
    shapes |= {f"{name}.{part}": (D,) for name in norms for part in "wb"}
    drawn = {name: torch.randn(shape, generator=g) for name, shape in shapes.items()}
    for layer in range(LAYERS):
        drawn[f"blocks.{layer}.attn.mask"] = torch.ones(N_CTX, N_CTX).tril().bool()
        drawn[f"blocks.{layer}.attn.IGNORE"] = torch.tensor(-torch.inf)
    return drawn


ACTIVATIONS = {
    "relu": F.relu, "gelu": F.gelu, "silu": F.silu,
    "gelu_new": lambda x: 0.5 * x * (1 + torch.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x**3))),
    "gelu_fast": lambda x: 0.5 * x * (1 + torch.tanh(0.7978845608 * x * (1 + 0.044715 * x * x))),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
}  # fmt: skip


def lens_loss(state: dict[str, Tensor], cfg: dict) -> float:
    """Return the mean loss (nats) of a HookedTransformer on TOKENS, in float64."""
    w = {n: t.double() for n, t in state.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        if cfg["normalization_type"] is None:
            return x
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.pow(2).mean(-1, keepdim=True) + cfg["eps"]).sqrt()
        return x if cfg["normalization_type"] == "LNPre" else x * w[f"{name}.w"] + w[f"{name}.b"]

    tokens = torch.from_numpy(TOKENS)
    position = w["pos_embed.W_pos"]
    short = cfg["positional_embedding_type"] == "shortformer"
    x = w["embed.W_E"][tokens] + (0 if short else position)
    hidden = torch.ones(N_CTX, N_CTX).triu(1).bool()
    for layer in range(cfg["n_layers"]):
        b = f"blocks.{layer}"
        v_in = norm(x, f"{b}.ln1")
        qk_in = v_in + (position if short else 0)
        q, k, v = (
            torch.einsum("btd,hde->bhte", one, w[f"{b}.attn.W_{n}"]) + w[f"{b}.attn.b_{n}"][:, None]
            for n, one in (("Q", qk_in), ("K", qk_in), ("V", v_in))
        )
        scale = cfg["attn_scale"] if cfg["use_attn_scale"] else 1.0
        pattern = (q @ k.mT / scale).masked_fill(hidden, -torch.inf).softmax(-1)
        x = x + torch.einsum("bhte,hed->btd", pattern @ v, w[f"{b}.attn.W_O"]) + w[f"{b}.attn.b_O"]
        if not cfg["attn_only"]:
            pre = norm(x, f"{b}.ln2") @ w[f"{b}.mlp.W_in"] + w[f"{b}.mlp.b_in"]
            x = x + ACTIVATIONS[cfg["act_fn"]](pre) @ w[f"{b}.mlp.W_out"] + w[f"{b}.mlp.b_out"]
    logits = norm(x, "ln_final") @ w["unembed.W_U"] + w["unembed.b_U"]
    return float(F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()))


def stored_loss(folder: Path, **given) -> float:
    """Return the mean loss that an analysis of `folder` stores for its last step."""
    np.save(folder / "tokens.npy", TOKENS)
    analysis = Analysis.model_validate({
        "checkpoints": str(folder), "store": str(folder / "a.zarr"),
        "inputs": {"text": {"kind": "array", "path": str(folder / "tokens.npy"),
                            "sequences": len(TOKENS), "length": N_CTX}},
        "measures": {"token_loss": EARLY_LATE}, "workers": {"dtype": "float64"}, **given,
    })  # fmt: skip
    summary = analyze(analysis)
    assert not summary.failed
    return float(open_run(analysis.store)["token_loss"]["mean"].values[-1])


HONOURED = {
    "gelu": {}, "relu": {"act_fn": "relu"}, "silu": {"act_fn": "silu"},
    "gelu_new": {"act_fn": "gelu_new"}, "gelu_fast": {"act_fn": "gelu_fast"},
    "gelu_pytorch_tanh": {"act_fn": "gelu_pytorch_tanh"},
    "LNPre": {"normalization_type": "LNPre"}, "no norm": {"normalization_type": None},
    "attn-only": {"attn_only": True, "act_fn": None}, "eps": {"eps": 0.3},
    "no attn_scale": {"use_attn_scale": False}, "attn_scale": {"attn_scale": 0.7},
    "shortformer": {"positional_embedding_type": "shortformer"},
    "global layers": {"use_local_attn": True, "attn_types": ["global"] * 2, "window_size": 4},
}  # fmt: skip


@pytest.mark.parametrize("name", HONOURED)
def test_a_field_that_an_organism_has_changes_the_loss_as_in_the_formula(tmp_path: Path, name):
    cfg = config(**HONOURED[name])
    weights = state(cfg["normalization_type"] == "LN", not cfg["attn_only"])
    torch.save({"model": weights, "epoch": 7, "config": cfg}, tmp_path / "7.pth")
    assert stored_loss(tmp_path) == pytest.approx(lens_loss(weights, cfg), rel=1e-7)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("act_fn", "solu_ln"), ("act_fn", "solu"), ("normalization_type", "RMSPre"),
        ("attention_dir", "bidirectional"), ("parallel_attn_mlp", True), ("gated_mlp", True),
        ("final_rms", True), ("post_embedding_ln", True), ("num_experts", 4),
        ("use_normalization_before_and_after", True), ("load_in_4bit", True),
        ("attn_scores_soft_cap", 50.0), ("output_logits_soft_cap", 30.0),
        ("n_key_value_heads", 1), ("positional_embedding_type", "rotary"),
        ("positional_embedding_type", "alibi"), ("scale_attn_by_inverse_layer_idx", True),
        ("attn_scale", 0.0), ("attn_scale", float("nan")), ("eps", -1.0), ("use_local_attn", True),
        ("d_vocab", V + 1), ("n_layers", 3), ("d_mlp", 5), ("n_ctx", 9), ("n_heads", 2),
        ("attn_only", True), ("use_qk_norm", True), ("use_attn_scale", "no"),
        ("use_attn_scale", torch.ones(3)), ("rotary_scaling", {"factor": 2}),
    ],
)  # fmt: skip
def test_a_field_that_no_organism_has_is_refused_by_name(tmp_path: Path, field, value):
    cfg = config(**{field: value})
    weights = state(cfg["normalization_type"] == "LN")
    torch.save({"model": weights, "epoch": 7, "config": cfg}, tmp_path / "7.pth")
    with pytest.raises(InputError, match=rf"7\.pth: .*{field}"):
        stored_loss(tmp_path)
    assert not (tmp_path / "a.zarr").exists()


def test_local_layers_are_refused_and_shown_by_their_masks(tmp_path: Path):
    cfg = config(use_local_attn=True, attn_types=["global", "local"], window_size=4)
    torch.save({"model": state(), "epoch": 7, "config": cfg}, tmp_path / "7.pth")
    with pytest.raises(InputError, match=r"use_local_attn = True"):
        stored_loss(tmp_path)
    banded = torch.ones(N_CTX, N_CTX).tril().triu(-3).bool()
    saved = {"model": state() | {"blocks.1.attn.mask": banded}, "epoch": 7, "config": config()}
    torch.save(saved, tmp_path / "7.pth")
    with pytest.raises(InputError, match=r"'blocks\.1\.attn\.mask' hides earlier tokens"):
        stored_loss(tmp_path)


@pytest.mark.parametrize("name", ["gelu", "LNPre", "attn-only", "no attn_scale"])
def test_a_state_dict_alone_is_computed_as_the_analysis_says(tmp_path: Path, name):
    cfg = config(**HONOURED[name])
    weights = state(cfg["normalization_type"] == "LN", not cfg["attn_only"])
    torch.save(weights, tmp_path / "1000.pth")
    needed = {
        "gelu": "act_fn", "LNPre": "act_fn and no normalization_type",
        "attn-only": "positional_embedding_type", "no attn_scale": "act_fn",
    }[name]  # fmt: skip
    with pytest.raises(InputError, match=rf"1000\.pth: has no {needed}, and the"):
        stored_loss(tmp_path)
    given = {one: cfg[one] for one in ("act_fn", "normalization_type") if cfg[one] is not None}
    given["positional_embedding_type"] = "standard"
    if not cfg["use_attn_scale"]:
        given["use_attn_scale"] = False
    assert stored_loss(tmp_path, model=given) == pytest.approx(lens_loss(weights, cfg), rel=1e-7)


def test_a_given_field_that_contradicts_the_file_is_refused(tmp_path: Path):
    torch.save(state(), tmp_path / "1000.pth")
    with pytest.raises(InputError, match="its tensors show normalization_type = 'LN', but `model`"):
        stored_loss(tmp_path, model={"act_fn": "gelu", "normalization_type": "LNPre"})
    torch.save({"model": state(), "epoch": 7, "config": config()}, tmp_path / "7.pth")
    (tmp_path / "1000.pth").unlink()
    with pytest.raises(InputError, match="its config says act_fn = 'gelu', but `model` of the"):
        stored_loss(tmp_path, model={"act_fn": "relu"})


def test_two_answers_are_never_mixed_in_one_store(tmp_path: Path):
    torch.save(state(norm=False), tmp_path / "1000.pth")
    first = stored_loss(tmp_path, model={"act_fn": "gelu", "normalization_type": "LNPre"})
    with pytest.raises(InputError, match="the store was made by another analysis"):
        stored_loss(tmp_path, model={"act_fn": "relu", "normalization_type": "LNPre"})
    assert first == pytest.approx(
        lens_loss(state(norm=False), config(normalization_type="LNPre")), rel=1e-7
    )


def test_an_unknown_key_of_model_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="act_func"):
        Analysis.model_validate({"checkpoints": "a", "store": "b", "measures": ["weight_norm"],
                                 "model": {"act_func": "relu"}})  # fmt: skip


def test_a_field_said_to_be_without_effect_is_ignored(tmp_path: Path):
    cfg = config(colour="red")
    torch.save({"model": state(), "epoch": 7, "config": cfg}, tmp_path / "7.pth")
    with pytest.raises(InputError, match=r"colour = 'red', an unknown field .*\[colour\]"):
        stored_loss(tmp_path)
    found = stored_loss(tmp_path, model={"ignore": ["colour"]})
    assert found == pytest.approx(lens_loss(state(), cfg), rel=1e-7)


class HookedTransformerConfig:
    """Pickled like TransformerLens' own, whose square roots are numbers of numpy."""

    def __init__(self, **values):
        vars(self).update(values)


def test_a_config_object_with_numbers_of_numpy_is_read(tmp_path: Path):
    cfg = HookedTransformerConfig(**config(attn_scale=np.sqrt(D_HEAD), eps=np.float32(0.25)))
    torch.save({"model": state(), "epoch": 7, "cfg": cfg}, tmp_path / "7.pth")
    expected = lens_loss(state(), config(eps=0.25))
    assert stored_loss(tmp_path) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("embed.W_E", torch.zeros(D, V), r"'embed.W_E' has the shape \[12, 17\], expected"),
        ("blocks.1.mlp.W_in", torch.zeros(D_MLP, D), r"'blocks.1.mlp.W_in' has the shape"),
        ("unembed.W_U", torch.zeros(D, V).int(), r"'unembed.W_U' is of torch.int32"),
        (
            "blocks.0.mlp.W_gate",
            torch.zeros(D, D_MLP),
            "show gated_mlp = True, but its config says",
        ),
        ("blocks.0.attn._W_K", torch.zeros(1, D, D_HEAD), "has the tensor 'blocks.0.attn._W_K'"),
        ("blocks.2.ln1.w", torch.zeros(D), "'blocks.1...' is missing|'blocks.2.attn"),
        ("pos_embed.W_pos", None, "'pos_embed.W_pos' is missing"),
        ("blocks.1.attn.b_K", None, "'blocks.1.attn.b_K' is missing, another block has it"),
        ("ln_final.b", None, "'ln_final.b' is missing"),
    ],
)
def test_tensors_of_another_model_are_named(tmp_path: Path, name, tensor, message):
    weights = state()
    weights.pop(name, None)
    if tensor is not None:
        weights[name] = tensor
    torch.save({"model": weights, "epoch": 7, "config": config()}, tmp_path / "7.pth")
    with pytest.raises(InputError, match=rf"7\.pth: .*({message})"):
        stored_loss(tmp_path)


def test_the_notes_tell_what_was_not_said(tmp_path: Path):
    torch.save(state(), tmp_path / "1000.pth")
    stored_loss(tmp_path, model={"act_fn": "gelu"})
    analysis = {"checkpoints": str(tmp_path), "store": str(tmp_path / "a.zarr"),
                "measures": ["weight_norm"], "model": {"act_fn": "gelu"}}  # fmt: skip
    (note,) = analyze(Analysis.model_validate(analysis)).notes
    assert "the files hold no complete config" in note and "attention_dir = causal" in note
    json.dumps(note)


def test_matrices_that_share_their_memory_are_read(tmp_path: Path):
    weights = state()
    weights["unembed.W_U"] = weights["embed.W_E"].T
    torch.save({"model": weights, "epoch": 7, "config": config()}, tmp_path / "7.pth")
    assert stored_loss(tmp_path) == pytest.approx(lens_loss(weights, config()), rel=1e-7)
