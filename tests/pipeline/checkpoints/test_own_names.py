"""Models of one's own: read with the names that the analysis gives, their losses are their own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline import Analysis, analyze
from pipeline.checkpoints import RunLayout, list_checkpoints
from pipeline.checkpoints.foreign import conversion_notes, ordinary_run
from pipeline.errors import InputError
from pipeline.models.resident import Resident
from pipeline.models.weights import read_weights
from tests.pipeline.checkpoints.own_models import (
    CONTEXT,
    HEADS,
    Bare,
    D,
    Encoder,
    Lecture,
    Modern,
    NanoGPT,
    V,
    drawn,
    loss_of,
)

BARE = {
    "emb": "embed.W_E",
    "pe": "pos_embed.W_pos",
    "qkv.{}": {"name": "blocks.{}.attn.W_QKV", "axes": "d_model (n_heads qkv d_head)"},
    "o.{}": {"name": "blocks.{}.attn.W_O", "axes": "(n_heads d_head) d_model"},
    "u": "unembed.W_U",
}
ENCODER = {
    "tok.weight": "embed.W_E",
    "pos": "pos_embed.W_pos",
    "encoder.layers.{}.": "nn.TransformerEncoderLayer",
    "ln.weight": "ln_final.w",
    "ln.bias": "ln_final.b",
    "out.weight": "unembed.W_U",
    "out.bias": "unembed.b_U",
}
BLOCK = "blocks.{}."
MODERN = {
    "names": {
        "embed.weight": ["embed.W_E", "unembed.W_U"],
        **{f"layers.{{}}.{one}.weight": f"{BLOCK}attn.W_{one.upper()}" for one in "qkvo"},
        "layers.{}.gate.weight": f"{BLOCK}mlp.W_gate",
        "layers.{}.up.weight": f"{BLOCK}mlp.W_in",
        "layers.{}.down.weight": f"{BLOCK}mlp.W_out",
        "layers.{}.n1.weight": f"{BLOCK}ln1.w",
        "layers.{}.n2.weight": f"{BLOCK}ln2.w",
        "norm.weight": "ln_final.w",
    },
    "matrices": "out_in", "normalization_type": "RMS", "act_fn": "silu", "n_heads": HEADS,
    "eps": 1e-6, "positional_embedding_type": "rotary", "n_ctx": CONTEXT, "rotary_dim": D // HEADS,
    "rotary_adjacent_pairs": False,
}  # fmt: skip
ATTENTION_ONLY = {"normalization_type": None, "positional_embedding_type": "standard"}
MODELS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "nanogpt": (lambda: NanoGPT(bias=True), {"names": "nanogpt", "act_fn": "gelu",
                                             "n_heads": HEADS}),
    "nanogpt without biases": (lambda: NanoGPT(bias=False), {"names": "nanogpt", "act_fn": "gelu",
                                                             "n_heads": HEADS,
                                                             "normalization_type": "LN"}),
    "modern": (Modern, MODERN),
    "lecture": (Lecture, {"names": "gpt-lecture", "act_fn": "relu"}),
    "encoder": (Encoder, {"names": ENCODER, "act_fn": "gelu", "n_heads": HEADS, "norm_first": True,
                          "attention_dir": "causal"}),
    "bare": (Bare, {"names": BARE, "n_heads": HEADS, **ATTENTION_ONLY}),
}  # fmt: skip


def read_loss(run: Path | str, given: dict[str, Any], step: int = 1000) -> float:
    """Return the mean loss (nats) of a run's checkpoint as it is read, in float64."""
    return loss_of(as_read(run, given, step))


def as_read(run: Path | str, given: dict[str, Any], step: int = 1000) -> Callable[[Tensor], Tensor]:
    """Return the function from tokens to logits of a run's checkpoint as it is read, in float64."""
    (found,) = [one for one in list_checkpoints(str(run), model=given) if one.step == step]
    resident = Resident(found.uri, dtype="float64")
    resident.swap(read_weights(found.uri))
    return lambda ids: resident.module(ids).logits


def refusal(run: Path | str, given: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        list_checkpoints(str(run), model=given)
    return str(caught.value)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_ones_own_has_its_own_loss(name: str, tmp_path: Path) -> None:
    make, given = MODELS[name]
    model = drawn(make())
    torch.save(model.state_dict(), tmp_path / "1000.pt")
    assert read_loss(tmp_path, given) == pytest.approx(loss_of(model), rel=1e-7)


@pytest.mark.parametrize("prefix", ["model.", "net.", "_orig_mod.", "module.", "module.model."])
def test_a_prefix_of_all_names_is_removed(prefix: str, tmp_path: Path) -> None:
    model = drawn(Bare())
    state = {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "1000.pth")
    given = MODELS["bare"][1]
    assert read_loss(tmp_path, given) == pytest.approx(loss_of(model), rel=1e-7)


@pytest.mark.parametrize("key", ["model_state_dict", "state_dict", "model", "model_state"])
@pytest.mark.parametrize(
    "name", ["step_001000.pt", "checkpoint_1000.pt", "ckpt_1000.pt", "model_1000.pt", "1000.pth"]
)
def test_steps_are_in_names_with_a_word(name: str, key: str, tmp_path: Path) -> None:
    config = {"n_head": HEADS, "n_embd": D, "block_size": CONTEXT, "vocab_size": V, "lr": 1e-3}
    saved = {key: drawn(Bare()).state_dict(), "config": config, "step": 1000, "loss": 2.0}
    torch.save(saved, tmp_path / name)
    given = {name: value for name, value in MODELS["bare"][1].items() if name != "n_heads"}
    assert [one.step for one in list_checkpoints(str(tmp_path), model=given)] == [1000]
    torch.save({**saved, "step": 999}, tmp_path / name)
    assert "its name gives step 1000, its step is 999" in refusal(tmp_path, given)
    torch.save({**saved, "config": {**config, "n_embd": 99}}, tmp_path / name)
    assert "its config says d_model = 99, but its tensors have 12" in refusal(tmp_path, given)


def test_names_of_files_are_given_beside_the_model(tmp_path: Path) -> None:
    given, layout = MODELS["bare"][1], RunLayout(names="mine-{step}-x")
    torch.save(drawn(Bare()).state_dict(), tmp_path / "mine-7-x.pt")
    torch.save(drawn(Bare()).state_dict(), tmp_path / "best.pt")
    checkpoints = list_checkpoints(str(tmp_path), model=given, layout=layout)
    assert [one.step for one in checkpoints] == [7]
    notes = conversion_notes(ordinary_run(str(tmp_path), given, layout))
    assert "left out, since their names do not give their step: best.pt" in notes
    with pytest.raises(InputError, match=r"found best.pt, mine-7-x.pt, expected 'your-\{step\}'"):
        list_checkpoints(str(tmp_path), model=given, layout=RunLayout(names="your-{step}"))


def refused(tmp_path: Path, change: dict[str, Any], **given: Any) -> str:
    """Return the refusal of the bare model with other names; None removes one."""
    torch.save(drawn(Bare()).state_dict(), tmp_path / "1000.pt")
    names = {name: place for name, place in (BARE | change).items() if place != ""}
    return refusal(tmp_path, {"names": names, "n_heads": HEADS, **ATTENTION_ONLY, **given})


def test_what_two_readings_fit_is_refused_with_what_to_give(tmp_path: Path) -> None:
    said = refused(tmp_path, {"o.{}": "blocks.{}.attn.W_O"})
    assert "the tensor 'o.0' of shape [12, 12] can be d_model (n_heads d_head) or (n_heads" in said
    assert "give `matrices: out_in` (as nn.Linear stores them) or `matrices: in_out`" in said
    said = refused(tmp_path, {"qkv.{}": "blocks.{}.attn.W_QKV"})
    assert "can be d_model (qkv n_heads d_head) or d_model (n_heads qkv d_head): give its" in said
    given = {"names": BARE | {"o.{}": "blocks.{}.attn.W_O"}, "matrices": "in_out",
             "n_heads": HEADS, **ATTENTION_ONLY}  # fmt: skip
    assert read_loss(tmp_path, given) == pytest.approx(loss_of(drawn(Bare())), rel=1e-7)


@pytest.mark.parametrize(
    ("change", "given", "says"),
    [
        ({"u": ""}, {}, "has the tensor 'u', to which `names` gives no place"),
        ({"w": "ln_final.w"}, {}, "`names` gives 'w', which it has not: it has emb, pe"),
        ({"u": "unembed.W"}, {}, "the place 'unembed.W'; did you mean 'unembed.W_U'?"),
        ({"u": None}, {}, "no tensor for unembed.W_U (if it is that of the tokens, give it both"),
        ({"o.{}": "unembed.W_U"}, {}, "give {} once in both"),
        ({"u": {"name": "unembed.W_U", "axes": "(d_model"}}, {}, "axes '(d_model' are not"),
        ({"u": {"name": "unembed.W_U", "axes": "d_vocab_out d_model"}}, {},
         "'u' has the shape [12, 19], expected d_vocab_out d_model with"),
        ({}, {"n_heads": 5}, "the tensor 'qkv.0' has the shape [12, 36], expected d_model (n_hea"),
        ({}, {"matrices": "out_in"}, "'u' has the shape [12, 19], expected d_vocab_out d_model"),
        ({"u": ["unembed.W_U", "unembed.b_U"]}, {}, "the tensor 'u' has the shape"),
    ],
)  # fmt: skip
def test_names_that_do_not_fit_are_refused(
    change: dict[str, Any], given: dict[str, Any], says: str, tmp_path: Path
) -> None:
    said = refused(tmp_path, change, **given)
    assert "1000.pt: " in said and says in said


def test_the_number_of_heads_is_asked_for(tmp_path: Path) -> None:
    torch.save(drawn(Bare()).state_dict(), tmp_path / "1000.pt")
    said = refusal(tmp_path, {"names": BARE, **ATTENTION_ONLY})
    assert "the number of heads is unknown: give `model: {n_heads: ...}`" in said


def test_what_pytorchs_layers_do_not_store_is_asked_for(tmp_path: Path) -> None:
    torch.save(drawn(Encoder()).state_dict(), tmp_path / "1000.pt")
    given = {"names": ENCODER, "act_fn": "gelu", "n_heads": HEADS}
    assert "attention_dir and norm_first of PyTorch's layer" in refusal(tmp_path, given)
    given |= {"attention_dir": "causal", "norm_first": False}
    assert "norm_first = False: organisms have" in refusal(tmp_path, given)
    given |= {"attention_dir": "bidirectional", "norm_first": True}
    assert "attention_dir = 'bidirectional': organisms compute 'causal'" in refusal(tmp_path, given)


def test_the_kind_of_norms_without_biases_is_asked_for(tmp_path: Path) -> None:
    torch.save(drawn(NanoGPT(bias=False)).state_dict(), tmp_path / "1000.pt")
    given = {"names": "nanogpt", "act_fn": "gelu", "n_heads": HEADS}
    assert "so that their kind is unknown: give `model: {normalization_type: LN}" in refusal(
        tmp_path, given
    )
    said = refusal(tmp_path, {**given, "normalization_type": "RMS"})
    assert "normalization_type = 'RMS': no organism has it" in said


def test_how_rotary_positions_turn_is_asked_for(tmp_path: Path) -> None:
    torch.save(drawn(Modern()).state_dict(), tmp_path / "1000.pt")
    needed = {name: one for name, one in MODERN.items() if name not in ("n_ctx", "rotary_dim")}
    assert "has no n_ctx and no rotary_dim, and the forward" in refusal(tmp_path, needed)
    said = refusal(tmp_path, {**MODERN, "rotary_adjacent_pairs": True})
    assert "rotary_adjacent_pairs = True: organisms compute False only" in said
    assert "rotary_dim = 3: " in refusal(tmp_path, {**MODERN, "rotary_dim": 3})


def test_tensors_of_a_tied_model_have_two_places(tmp_path: Path) -> None:
    model = drawn(NanoGPT(bias=True))
    state = model.state_dict()
    del state["lm_head.weight"]
    torch.save(state, tmp_path / "1000.pt")
    given = MODELS["nanogpt"][1]
    assert "no tensor for unembed.W_U" in refusal(tmp_path, given)


def test_a_mask_that_is_not_causal_is_refused(tmp_path: Path) -> None:
    state = drawn(NanoGPT(bias=True)).state_dict()
    state["transformer.h.1.attn.bias"] = torch.ones(1, 1, CONTEXT, CONTEXT)
    torch.save(state, tmp_path / "1000.pt")
    assert "is no causal mask" in refusal(tmp_path, MODELS["nanogpt"][1])


def test_another_model_with_the_same_names_is_refused(tmp_path: Path) -> None:
    state = drawn(NanoGPT(bias=True)).state_dict()
    name = "transformer.h.0.attn.c_attn.weight"  # stored [in, out], as in transformers' GPT-2
    torch.save({**state, name: state[name].T.clone()}, tmp_path / "1000.pt")
    said = refusal(tmp_path, MODELS["nanogpt"][1])
    assert f"'{name}' has the shape [12, 36], expected (qkv n_heads d_head) d_model" in said
    del state["transformer.h.1.ln_2.bias"]
    torch.save(state, tmp_path / "1000.pt")
    said = refusal(tmp_path, MODELS["nanogpt"][1])
    assert "the tensor 'transformer.h.1.ln_2.bias' is missing, another block has it" in said


def test_the_message_names_the_file_the_tensors_and_the_table(tmp_path: Path) -> None:
    torch.save(drawn(NanoGPT(bias=True)).state_dict(), tmp_path / "1000.pt")
    said = refusal(tmp_path, {"act_fn": "gelu"})
    assert said.startswith(f"{tmp_path / '1000.pt'}: holds no weights of a known format, found ")
    assert "transformer.wte.weight" in said and "{names: nanogpt}" in said
    assert "step-0" not in said
    assert "gives matrices, which is for one's own" in refusal_of_lens(tmp_path)


def refusal_of_lens(tmp_path: Path) -> str:
    from tests.pipeline.checkpoints.test_foreign import lens

    (tmp_path / "1000.pt").unlink()
    torch.save(lens(0), tmp_path / "5.pt")
    return refusal(tmp_path, {"act_fn": "relu", "matrices": "out_in"})


def test_a_file_of_ones_own_that_is_read_as_a_checkpoint_says_what_to_give(tmp_path: Path) -> None:
    torch.save({"model_state_dict": drawn(NanoGPT(bias=True)).state_dict(), "step": 1000},
               tmp_path / "step_001000.pt")  # fmt: skip
    analysis = {"checkpoints": str(tmp_path), "store": str(tmp_path / "a.zarr"),
                "measures": ["weight_norm"]}  # fmt: skip
    with pytest.raises(InputError) as caught:
        analyze(Analysis.model_validate(analysis))
    said = str(caught.value)
    assert "step_001000.pt: holds a state dict of transformer.wte.weight, " in said
    assert "(nanogpt has them): `model: {names: nanogpt}`" in said
