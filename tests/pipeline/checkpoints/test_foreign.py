"""Files in the formats of grokking research: once read, they compute what their formulas give."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.analysis.inputs import make_input
from pipeline.checkpoints import list_checkpoints
from pipeline.checkpoints.foreign import ordinary_run
from pipeline.config import TableInput
from pipeline.engine.forward import run
from pipeline.engine.record import Pass
from pipeline.errors import InputError
from pipeline.inputs import Input, modular
from pipeline.models.facts import facts_of
from pipeline.models.resident import Resident
from pipeline.models.weights import read_weights

P, D, HEADS, D_MLP = 7, 12, 3, 20
D_HEAD = D // HEADS
RELU = {"act_fn": "relu"}  # what files without a config do not say
CONFIG = {"p": P, "d_model": D, "fn_name": "add", "frac_train": 0.4, "num_epochs": 300, "seed": 3,
          "lr": 1e-3, "act_type": "ReLU"}  # fmt: skip


def authors(seed: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    shapes = {
        "embed.W_E": (D, P + 1), "pos_embed.W_pos": (3, D),
        "blocks.0.attn.W_K": (HEADS, D_HEAD, D), "blocks.0.attn.W_Q": (HEADS, D_HEAD, D),
        "blocks.0.attn.W_V": (HEADS, D_HEAD, D), "blocks.0.attn.W_O": (D, HEADS * D_HEAD),
        "blocks.0.mlp.W_in": (D_MLP, D), "blocks.0.mlp.b_in": (D_MLP,),
        "blocks.0.mlp.W_out": (D, D_MLP), "blocks.0.mlp.b_out": (D,), "unembed.W_U": (D, P + 1),
    }  # fmt: skip
    state = {name: torch.randn(shape, generator=g) for name, shape in shapes.items()}
    return state | {"blocks.0.attn.mask": torch.tril(torch.ones(3, 3))}


def authors_logits(state: dict[str, Tensor], tokens: np.ndarray) -> np.ndarray:
    """Compute logits by appendix A of the paper, one pair and one head at a time."""
    w = {name: tensor.double().numpy() for name, tensor in state.items()}
    logits = []
    for pair in tokens:
        x = w["embed.W_E"].T[pair] + w["pos_embed.W_pos"]
        z = []
        for h in range(HEADS):
            q = w["blocks.0.attn.W_Q"][h] @ x[2]
            scores = np.array([q @ (w["blocks.0.attn.W_K"][h] @ x[i]) for i in range(3)])
            weights = np.exp(scores / np.sqrt(D_HEAD))
            weights /= weights.sum()
            z.append(sum(weights[i] * (w["blocks.0.attn.W_V"][h] @ x[i]) for i in range(3)))
        mid = x[2] + w["blocks.0.attn.W_O"] @ np.concatenate(z)
        neurons = np.maximum(w["blocks.0.mlp.W_in"] @ mid + w["blocks.0.mlp.b_in"], 0)
        after = mid + w["blocks.0.mlp.W_out"] @ neurons + w["blocks.0.mlp.b_out"]
        logits.append(after @ w["unembed.W_U"])
    return np.stack(logits)


def lens(seed: int, outputs: int = P, norm: bool = False) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    shapes = {
        "embed.W_E": (P + 1, D), "pos_embed.W_pos": (3, D),
        "blocks.0.attn.W_Q": (HEADS, D, D_HEAD), "blocks.0.attn.W_K": (HEADS, D, D_HEAD),
        "blocks.0.attn.W_V": (HEADS, D, D_HEAD), "blocks.0.attn.W_O": (HEADS, D_HEAD, D),
        "blocks.0.attn.b_Q": (HEADS, D_HEAD), "blocks.0.attn.b_K": (HEADS, D_HEAD),
        "blocks.0.attn.b_V": (HEADS, D_HEAD), "blocks.0.attn.b_O": (D,),
        "blocks.0.mlp.W_in": (D, D_MLP), "blocks.0.mlp.b_in": (D_MLP,),
        "blocks.0.mlp.W_out": (D_MLP, D), "blocks.0.mlp.b_out": (D,),
        "unembed.W_U": (D, outputs), "unembed.b_U": (outputs,),
    }  # fmt: skip
    if norm:
        shapes |= {f"{n}.{part}": (D,) for n in ("blocks.0.ln1", "blocks.0.ln2", "ln_final")
                   for part in "wb"}  # fmt: skip
    state = {name: torch.randn(shape, generator=g) for name, shape in shapes.items()}
    constants = {"blocks.0.attn.mask": torch.tril(torch.ones(3, 3)).bool(),
                 "blocks.0.attn.IGNORE": torch.tensor(-torch.inf)}  # fmt: skip
    return state | constants


def lens_logits(state: dict[str, Tensor], tokens: np.ndarray) -> np.ndarray:
    w = {name: tensor.double().numpy() for name, tensor in state.items()}

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        if f"{name}.w" not in w:
            return x
        centred = x - x.mean(-1, keepdims=True)
        scale = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return centred / scale * w[f"{name}.w"] + w[f"{name}.b"]

    logits = []
    for pair in tokens:
        x = w["embed.W_E"][pair] + w["pos_embed.W_pos"]
        normed, mid = norm(x, "blocks.0.ln1"), x[2] + w["blocks.0.attn.b_O"]
        for h in range(HEADS):
            q, k, v = (
                normed @ w[f"blocks.0.attn.W_{n}"][h] + w[f"blocks.0.attn.b_{n}"][h] for n in "QKV"
            )
            weights = np.exp(q[2] @ k.T / np.sqrt(D_HEAD))
            mid = mid + (weights / weights.sum()) @ v @ w["blocks.0.attn.W_O"][h]
        entering = norm(mid, "blocks.0.ln2")
        neurons = np.maximum(entering @ w["blocks.0.mlp.W_in"] + w["blocks.0.mlp.b_in"], 0)
        after = mid + neurons @ w["blocks.0.mlp.W_out"] + w["blocks.0.mlp.b_out"]
        logits.append(norm(after, "ln_final") @ w["unembed.W_U"] + w["unembed.b_U"])
    return np.stack(logits)


TOKENS = modular.table(P, "add")[0]


def logits_of(checkpoint_uri: str) -> np.ndarray:
    resident = Resident(checkpoint_uri)
    resident.swap(read_weights(checkpoint_uri))
    table = Input("table", "table", TOKENS, attributes={"p": P})
    wanted = Pass("table", logit_positions=(-1,), dtype="float64")
    return run(resident, table, wanted).logits[-1].numpy()


def test_a_folder_of_epochs_with_its_first_and_last_state(tmp_path: Path):
    pairs = [(a, b, P) for a in range(P) for b in range(P)]
    random.Random(3).shuffle(pairs)
    states = {name: authors(i) for i, name in enumerate(("init", "100", "200", "final"))}
    torch.save({"model": states["init"], "train_data": pairs[:19], "test_data": pairs[19:]},
               tmp_path / "init.pth")  # fmt: skip
    for name, epoch in (("100", 100), ("200", 200), ("final", 300)):
        saved = {"model": states[name], "train_loss": 0.1, "test_loss": 2.0, "epoch": epoch}
        torch.save(saved | {"optimizer": {"state": {}}}, tmp_path / f"{name}.pth")
    checkpoints = list_checkpoints(str(tmp_path), model=RELU)
    assert [c.step for c in checkpoints] == [0, 100, 200, 300]
    for checkpoint, state in zip(checkpoints, states.values(), strict=True):
        expected = authors_logits(state, TOKENS)
        np.testing.assert_allclose(logits_of(checkpoint.uri), expected, rtol=1e-9, atol=1e-9)
    made = make_input("table", TableInput(operation="add"), str(ordinary_run(str(tmp_path), RELU)),
                      facts_of(checkpoints[0].uri))  # fmt: skip
    expected_rows = sorted(a * P + b for a, b, _ in pairs[:19])
    assert list(np.flatnonzero(made.arrays["is_train"])) == expected_rows
    assert made.attributes == {"p": P, "operation": "add", "train_share": 19 / 49}


@pytest.mark.parametrize("many", [("state_dicts", "epochs"), ("checkpoints", "checkpoint_epochs")])
def test_one_file_that_holds_a_run_is_a_run_of_many_checkpoints(tmp_path: Path, many):
    states = [authors(i) for i in range(3)]
    file = tmp_path / "full_run_data.pth"
    torch.save({"config": CONFIG, many[1]: [0, 100, 200], many[0]: states}, file)
    checkpoints = list_checkpoints(str(file))
    assert [c.step for c in checkpoints] == [0, 100, 200]
    expected = authors_logits(states[2], TOKENS)
    np.testing.assert_allclose(logits_of(checkpoints[2].uri), expected, rtol=1e-9, atol=1e-9)


def test_the_authors_config_gives_the_table_and_their_split(tmp_path: Path):
    file = tmp_path / "full_run_data.pth"
    torch.save({"config": CONFIG, "epochs": [0], "state_dicts": [authors(0)]}, file)
    facts = facts_of(list_checkpoints(str(file))[0].uri)
    made = make_input("table", TableInput(), str(ordinary_run(str(file))), facts)
    pairs = [(a, b) for a in range(P) for b in range(P)]
    random.seed(3)
    random.shuffle(pairs)
    trained = {a * P + b for a, b in pairs[: int(0.4 * 49)]}
    assert set(np.flatnonzero(made.arrays["is_train"])) == trained
    assert made.attributes["split_generator"] == "random"


def test_a_config_without_a_share_tells_the_operation_alone(tmp_path: Path):
    config = {"fn_name": "subtract", "seed": 999}
    torch.save({"config": config, "model": authors(0)}, tmp_path / "5.pth")
    run = str(ordinary_run(str(tmp_path), RELU))
    with pytest.raises(InputError, match="'table': train_share, split_seed not given"):
        make_input("table", TableInput(), run, facts_of(f"{run}/step-5"))


def test_what_the_file_does_not_say_is_asked_for(tmp_path: Path):
    torch.save({"model": authors(0), "epoch": 5}, tmp_path / "5.pth")
    run = str(ordinary_run(str(tmp_path), RELU))
    facts = facts_of(f"{run}/step-5")
    with pytest.raises(InputError, match="operation, train_share, split_seed not given"):
        make_input("table", TableInput(), run, facts)
    given = TableInput(operation="add", train_share=0.4, split_seed=3, split_generator="random")
    made = make_input("table", given, run, facts)
    np.testing.assert_array_equal(made.arrays["is_train"], modular.split(P, 0.4, 3, "random"))


@pytest.mark.parametrize(("outputs", "norm"), [(P, False), (P + 1, False), (P, True)])
def test_transformerlens_state_dicts(tmp_path: Path, outputs, norm):
    state = lens(1, outputs, norm)
    torch.save(state, tmp_path / "1000.pt")
    given = RELU | {"normalization_type": "LN" if norm else None}
    (only,) = list_checkpoints(str(tmp_path / "1000.pt"), model=given)
    assert only.step == 1000
    found = logits_of(only.uri)
    np.testing.assert_allclose(found[:, :outputs], lens_logits(state, TOKENS), rtol=1e-9, atol=1e-9)
    assert (found[:, outputs:] == 0).all()


class HookedTransformerConfig:
    """Pickled like TransformerLens' own, which holds values only."""

    def __init__(self) -> None:
        self.act_fn, self.normalization_type, self.dtype = "relu", None, torch.float32
        self.seed, self.d_vocab = 999, P + 1


def test_a_transformerlens_run_with_its_config_object_and_split(tmp_path: Path):
    rows = [3, 40, 11]
    saved = {"model": lens(9), "config": HookedTransformerConfig(), "checkpoint_epochs": [99, 199],
             "checkpoints": [lens(0), lens(1)], "train_indices": torch.tensor(rows),
             "test_losses": [1.0]}  # fmt: skip
    torch.save(saved, tmp_path / "demo.pth")
    checkpoints = list_checkpoints(str(tmp_path / "demo.pth"))
    assert [c.step for c in checkpoints] == [99, 199]
    run = str(ordinary_run(str(tmp_path / "demo.pth")))
    made = make_input("table", TableInput(operation="add"), run, facts_of(checkpoints[0].uri))
    assert list(np.flatnonzero(made.arrays["is_train"])) == sorted(rows)


def test_a_conversion_is_made_once_and_again_when_a_file_changes(tmp_path: Path):
    torch.save({"model": authors(0), "epoch": 5}, tmp_path / "5.pth")
    first = ordinary_run(str(tmp_path), RELU)
    before = (first / "step-5" / "model.safetensors").stat().st_mtime_ns
    assert ordinary_run(str(tmp_path), RELU) == first
    assert (first / "step-5" / "model.safetensors").stat().st_mtime_ns == before
    torch.save({"model": authors(0), "epoch": 6}, tmp_path / "6.pth")
    assert [c.step for c in list_checkpoints(str(tmp_path), model=RELU)] == [5, 6]
    assert ordinary_run(str(tmp_path), {"act_fn": "gelu"}) != ordinary_run(str(tmp_path), RELU)


def test_a_run_in_the_ordinary_layout_is_left_alone(tmp_path: Path):
    (tmp_path / "step-0").mkdir()
    torch.save({"model": authors(0), "epoch": 5}, tmp_path / "5.pth")
    assert ordinary_run(str(tmp_path)) == tmp_path


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path(self.path),))


def test_a_file_that_would_run_code_is_refused_unrun(tmp_path: Path):
    Evil.path = str(tmp_path / "ran")
    torch.save({"model": authors(0), "epoch": 5, "config": Evil()}, tmp_path / "5.pth")
    with pytest.raises(InputError, match=r"5\.pth: names .*, and files that could run code are"):
        list_checkpoints(str(tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK not a zip", "is truncated or no file of torch.save"),
        ({"epochs": [1, 2], "state_dicts": [{}]}, "holds 1 'state_dicts' but 2 'epochs'"),
        ({"model": {"weight": torch.zeros(2)}}, "no weights of a known format, found weight; expe"),
        ([1, 2], "holds list of 2, expected a dictionary"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content, message):
    file = tmp_path / "5.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(InputError, match=rf"5\.pth: .*{message}"):
        list_checkpoints(str(file))


def test_a_truncated_file_is_named(tmp_path: Path):
    file = tmp_path / "5.pth"
    torch.save({"model": authors(0), "epoch": 5}, file)
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(InputError, match=r"5\.pth: is truncated"):
        list_checkpoints(str(file))


def test_a_missing_tensor_is_named(tmp_path: Path):
    state = authors(0)
    del state["blocks.0.mlp.b_in"]
    torch.save({"model": state, "epoch": 5}, tmp_path / "5.pth")
    with pytest.raises(InputError, match=r"tensor 'blocks\.0\.mlp\.b_in' is missing"):
        list_checkpoints(str(tmp_path))


def test_an_old_file_without_a_zip_is_read(tmp_path: Path):
    saved = {"model": authors(0), "epoch": 5}
    torch.save(saved, tmp_path / "5.pth", _use_new_zipfile_serialization=False)
    assert [c.step for c in list_checkpoints(str(tmp_path), model=RELU)] == [5]
