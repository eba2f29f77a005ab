"""The step of a `.pth` file, the files that are refused, and the messages about them."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import Analysis, analyze, audit, open_run
from pipeline.analysis.estimate import dry_run
from pipeline.analysis.inputs import load_input
from pipeline.checkpoints import list_checkpoints
from pipeline.checkpoints.foreign import conversion_notes, ordinary_run
from pipeline.checkpoints.pth_files import read_saved
from pipeline.checkpoints.pth_names import step_in_name
from pipeline.errors import InputError
from pipeline.inputs import modular
from pipeline.store import Store
from tests.pipeline.checkpoints.test_foreign import RELU, P, authors, authors_logits


def save(folder: Path, name: str, seed: int = 0, **beside) -> None:
    torch.save({"model": authors(seed), **beside}, folder / name)


def steps(folder: Path) -> list[int]:
    return [one.step for one in list_checkpoints(str(folder), model=RELU)]


def analysis(folder: Path, **changes) -> Analysis:
    return Analysis.model_validate({
        "checkpoints": str(folder), "store": str(folder / "a.zarr"), "model": RELU,
        "measures": ["weight_norm"], **changes,
    })  # fmt: skip


def test_a_last_file_without_a_step_is_refused_and_not_called_step_0(tmp_path: Path):
    save(tmp_path, "500.pth", epoch=500)
    save(tmp_path, "final.pth", seed=1)
    with pytest.raises(InputError, match=r"final\.pth: has no step: found model, no"):
        steps(tmp_path)
    save(tmp_path, "final.pth", seed=1, train_losses=[1.0] * 600)
    with pytest.raises(InputError, match="its 600 train_losses do not prove it: rename the file"):
        steps(tmp_path)
    with pytest.raises(InputError, match=r"final\.pth: has no step"):
        analyze(analysis(tmp_path))
    with pytest.raises(InputError, match=r"final\.pth: has no step"):
        audit(str(tmp_path), model=RELU)


def test_a_history_with_a_loss_for_each_epoch_proves_the_last_step(tmp_path: Path):
    save(tmp_path, "500.pth", epoch=500)
    history = {"train_losses": [1.0] * 600, "test_losses": [2.0] * 600}
    save(tmp_path, "final.pth", seed=1, config={"num_epochs": 600}, **history)
    assert steps(tmp_path) == [500, 600]
    save(tmp_path, "final.pth", seed=1, config={"num_epochs": 700}, **history)  # it ended early
    with pytest.raises(InputError, match="600 train_losses and 600 test_losses do not prove it"):
        steps(tmp_path)


@pytest.mark.parametrize("name", ["model.pt", "best.pth"])
def test_a_folder_of_other_names_is_told_what_was_found(tmp_path: Path, name):
    save(tmp_path, name)
    with pytest.raises(InputError, match=rf"found {name}, whose names do not give their step"):
        steps(tmp_path)


def test_two_files_of_one_step_are_refused_by_name(tmp_path: Path):
    save(tmp_path, "1000.pth", 0, epoch=1000)
    save(tmp_path, "final.pth", 1, epoch=1000)
    with pytest.raises(InputError, match=r"both .*1000\.pth and .*final\.pth hold step 1000"):
        steps(tmp_path)
    save(tmp_path, "final.pth", 0, epoch=1000)  # the same weights: nothing is lost
    assert steps(tmp_path) == [1000]
    summary = analyze(analysis(tmp_path))
    assert any("has their weights: " in note and "final.pth" in note for note in summary.notes)


def test_two_states_of_one_step_in_one_file_are_refused(tmp_path: Path):
    saved = {"state_dicts": [authors(0), authors(1)], "epochs": [5, 5]}
    torch.save(saved, tmp_path / "full_run_data.pth")
    with pytest.raises(InputError, match=r"state_dicts\[0\] and .*state_dicts\[1\] hold step 5"):
        steps(tmp_path)


def test_a_name_and_an_epoch_that_differ_are_refused_by_both(tmp_path: Path):
    save(tmp_path, "500.pth", epoch=499)
    save(tmp_path, "1000.pth", seed=1, epoch=499)
    with pytest.raises(InputError, match=r"500\.pth: its name gives step 500, its epoch is 499"):
        steps(tmp_path)
    save(tmp_path, "1000.pth", seed=1, epoch=1000)
    summary = analyze(analysis(tmp_path))
    assert summary.computed == [1000]
    assert "500.pth: its name gives step 500, its epoch is 499" in summary.failed[500]


@pytest.mark.parametrize("epoch", [-1, True, "500", 499.5, float("nan"), torch.zeros(2), None])
def test_an_epoch_that_is_no_step_is_refused(tmp_path: Path, epoch):
    save(tmp_path, "5.pth", epoch=epoch)
    with pytest.raises(InputError, match=r"5\.pth: its epoch is .*, expected a whole number"):
        steps(tmp_path)


@pytest.mark.parametrize("epoch", [500, 500.0, torch.tensor(500)])
def test_a_whole_number_of_any_kind_is_a_step(tmp_path: Path, epoch):
    save(tmp_path, "final.pth", epoch=epoch)
    assert steps(tmp_path) == [500]


@pytest.mark.parametrize("key", ["model", "model_state_dict", "state_dict"])
def test_other_words_for_the_state_dict(tmp_path: Path, key):
    torch.save({key: authors(0), "step": 40, "epoch": 2, "optimizer": {}}, tmp_path / "40.pt")
    assert steps(tmp_path) == [40]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train_losses": [1.0], "test_losses": [2.0]}, "holds no state dict, found train_losses"),
        ({}, "holds no state dict, found nothing"),
        ([{}, {}], "holds list of 2, expected a dictionary"),
        ({"model": {"a.weight": torch.zeros(2)}}, "known format, found a.weight; expected embed"),
        ({"model": {"attn_blocks.0.W": torch.zeros(2), "b": 3}}, "its 'model' holds 'b' = int"),
        ({"model": 3}, "its 'model' is int, expected a state dict"),
        ({"model": {}, "state_dict": {}}, "holds both 'model' and 'state_dict'"),
        ({"attn_blocks.0.W": torch.zeros(2)}, "known format, found attn_blocks.0.W; expected"),
        ({"model": authors(0), "config": 7}, "its 'config' is int"),
        ({"model": authors(0), "train_data": [1]}, "train_indices or train_data are no list"),
        ({"model": authors(0), "config": {"act_type": "SiLU"}}, "act_type = 'SiLU'"),
        ({"model": authors(0), "config": {"use_ln": True}}, "use_ln = True"),
        ({"model": authors(0), "config": {"use_rope": 1}}, "has use_rope = 1, an unknown field"),
        ({"model": authors(0) | {"blocks.0.ln1.w_ln": torch.ones(2)}}, "tensor 'blocks.0.ln1.w_ln"),
    ],
)
def test_a_bad_file_is_named_and_the_others_are_computed(tmp_path: Path, content, message):
    torch.save(content, tmp_path / "300.pth")
    with pytest.raises(InputError, match=rf"300\.pth: .*{message}"):
        steps(tmp_path)
    save(tmp_path, "500.pth", epoch=500, config={"act_type": "ReLU"})
    assert steps(tmp_path) == [300, 500]
    summary = analyze(analysis(tmp_path))
    assert summary.computed == [500]
    assert message in summary.failed[300] and "300.pth: " in summary.failed[300]
    faults = [one for one in audit(str(tmp_path), model=RELU).faults if one.kind != "missing-step"]
    assert [(one.step, one.kind) for one in faults] == [(300, "unreadable-file")]


def test_an_error_that_may_pass_is_no_damage(tmp_path: Path, monkeypatch):
    save(tmp_path, "500.pth", epoch=500)
    save(tmp_path, "1000.pth", seed=1, epoch=1000)
    read = torch.load
    for error in (OSError(errno.EIO, "Input/output error"), MemoryError()):

        def fails(file: Path, error: Exception = error, **options):
            if file.name == "1000.pth":
                raise error
            return read(file, **options)

        monkeypatch.setattr(torch, "load", fails)
        with pytest.raises(type(error)):
            list_checkpoints(str(tmp_path), model=RELU)
        monkeypatch.setattr(torch, "load", read)
    summary = analyze(analysis(tmp_path))
    assert (summary.computed, summary.failed) == ([500, 1000], {})


def test_a_damaged_first_file_does_not_change_how_the_others_are_read(tmp_path: Path):
    config = {"act_type": "ReLU", "num_layers": 1}
    for step in (1000, 2000, 3000):
        save(tmp_path, f"step_{step}.pt", epoch=step, config=config)
    (tmp_path / "step_1000.pt").write_bytes(b"")
    found = [Path(one.uri).name for one in list_checkpoints(str(tmp_path))]
    assert found == ["step-1000", "step-2000", "step-3000"]


def test_files_with_names_of_another_kind_are_said(tmp_path: Path):
    save(tmp_path, "500.pth", epoch=500, config={"act_type": "ReLU", "num_layers": 1})
    save(tmp_path, "ckpt_900.pth", epoch=900)
    notes = conversion_notes(ordinary_run(str(tmp_path)))
    assert any(note.endswith("of another kind: ckpt_900.pth") for note in notes)


def test_files_without_act_type_are_refused_until_it_is_given(tmp_path: Path):
    save(tmp_path, "500.pth", epoch=500)
    with pytest.raises(InputError, match=r"500\.pth: has no act_fn, and the.*relu"):
        list_checkpoints(str(tmp_path))
    assert steps(tmp_path) == [500]
    with pytest.raises(InputError, match="act_func"):
        list_checkpoints(str(tmp_path), model={"act_func": "relu"})
    with pytest.raises(InputError, match="normalization_type = None, but `model`"):
        list_checkpoints(str(tmp_path), model=RELU | {"normalization_type": "LN"})


def test_model_is_refused_where_every_checkpoint_has_a_config(tmp_path: Path):
    (tmp_path / "step-0").mkdir()
    with pytest.raises(InputError, match="`model` is for a folder of"):
        list_checkpoints(str(tmp_path), model=RELU)


def test_what_is_left_out_of_a_folder_is_said(tmp_path: Path):
    save(tmp_path, "500.pth", epoch=500)
    save(tmp_path, "best.pth")
    notes = analyze(analysis(tmp_path)).notes
    assert any(note.endswith("do not give their step: best.pth") for note in notes)
    saved = {"checkpoints": [authors(0)], "checkpoint_epochs": [9], "model": authors(1)}
    (tmp_path / "other").mkdir()
    torch.save(saved, tmp_path / "other" / "run.pth")
    notes = analyze(analysis(tmp_path / "other" / "run.pth", store=str(tmp_path / "b.zarr"))).notes
    assert any("step is unknown: " in note and "run.pth: its 'model'" in note for note in notes)


TABLE = {"kind": "table", "operation": "add", "train_share": 0.4, "split_seed": 3}


def memorised(is_train: np.ndarray) -> dict[str, torch.Tensor]:
    """Return weights trained on a split, by the authors' formula written for all pairs."""
    tokens, labels = (torch.from_numpy(array) for array in modular.table(P, "add"))
    w = {name: tensor / 3 for name, tensor in authors(0).items() if not name.endswith("mask")}
    optimizer = torch.optim.Adam([t.requires_grad_() for t in w.values()], lr=0.02)
    for _ in range(60):
        x = w["embed.W_E"].T[tokens] + w["pos_embed.W_pos"]
        q, k, v = (torch.einsum("hed,btd->bhte", w[f"blocks.0.attn.W_{n}"], x) for n in "QKV")
        z = (q[:, :, 2:] @ k.mT / k.shape[-1] ** 0.5).softmax(-1) @ v
        x = x[:, 2] + z.flatten(1) @ w["blocks.0.attn.W_O"].T
        neurons = (x @ w["blocks.0.mlp.W_in"].T + w["blocks.0.mlp.b_in"]).relu()
        x = x + neurons @ w["blocks.0.mlp.W_out"].T + w["blocks.0.mlp.b_out"]
        losses = torch.nn.functional.cross_entropy(x @ w["unembed.W_U"], labels, reduction="none")
        optimizer.zero_grad()
        losses[torch.from_numpy(is_train)].mean().backward()
        optimizer.step()
    return {name: tensor.detach() for name, tensor in w.items()}


def mean_loss(state: dict[str, torch.Tensor], chosen: np.ndarray) -> float:
    """Return the mean loss over some pairs by the authors' formula, one pair at a time."""
    tokens, labels = modular.table(P, "add")
    logits = authors_logits(state, tokens)
    losses = np.logaddexp.reduce(logits, -1) - logits[np.arange(P * P), labels]
    return float(losses[chosen].mean())


@pytest.mark.parametrize("generator", ["numpy", "random"])
def test_a_noted_train_loss_tells_the_split_that_the_file_does_not_say(tmp_path: Path, generator):
    is_train = modular.split(P, 0.4, 3, generator)
    state = memorised(is_train)
    assert mean_loss(state, ~is_train) > 10 * mean_loss(state, is_train)
    saved = {"model": state, "epoch": 60, "train_loss": mean_loss(state, is_train)}
    torch.save(saved, tmp_path / "60.pth")
    chosen = analysis(tmp_path, inputs={"table": TABLE}, measures=["modular_addition"])
    summary = analyze(chosen)
    assert f"{generator!r} is used, with which the weights have" in " ".join(summary.notes)
    stored = split_in(chosen)
    assert np.array_equal(stored.arrays["is_train"], is_train)
    assert stored.attributes["split_proven"] is True


def split_in(chosen: Analysis):
    attributes = open_run(chosen.store)["modular_addition"].attrs["input"]
    return load_input(Store(chosen.store), "table", attributes["digest"])


def test_a_split_that_nothing_proves_is_said_everywhere(tmp_path: Path):
    save(tmp_path, "5.pth", epoch=5, train_loss=1e-9)
    chosen = analysis(tmp_path, inputs={"table": TABLE}, measures=["modular_addition"])
    sentence = "the files do not prove it; the split of 'numpy' is used"
    assert any(sentence in note for note in dry_run(chosen).notes)
    assert any(sentence in note for note in analyze(chosen).notes)
    attributes = open_run(chosen.store)["modular_addition"].attrs["input"]
    assert attributes["split_generator"] == "numpy" and attributes["split_proven"] is False
    given = analysis(tmp_path, inputs={"table": TABLE | {"split_generator": "random"}},
                     measures=["modular_addition"])  # fmt: skip
    assert not any("split" in note for note in dry_run(given).notes)


def test_given_splits_are_held_against_the_pairs_that_a_file_lists(tmp_path: Path):
    rows = np.flatnonzero(modular.split(P, 0.4, 3, "random"))
    save(tmp_path, "5.pth", epoch=5, train_indices=torch.from_numpy(rows))
    chosen = analysis(tmp_path, inputs={"table": TABLE}, measures=["modular_addition"])
    assert not any("split" in note for note in analyze(chosen).notes)
    assert split_in(chosen).attributes["split_generator"] == "random"
    other = analysis(tmp_path, inputs={"table": TABLE | {"split_seed": 4}},
                     measures=["modular_addition"])  # fmt: skip
    with pytest.raises(InputError, match="give other train pairs than the 19 that the run's files"):
        analyze(other)


def test_a_model_is_the_same_after_a_flow_has_passed_it_on(tmp_path: Path):
    chosen = analysis(tmp_path)
    assert Analysis.model_validate(json.loads(chosen.model_dump_json())).model == RELU


def test_the_commands_take_the_model_and_say_what_is_left_out(tmp_path: Path):
    from typer.testing import CliRunner

    from flows.cli.app import app

    save(tmp_path, "500.pth", epoch=500)
    save(tmp_path, "best.pth")
    given = ["--model", "act_fn=relu", "--model", "normalization_type=null"]
    listed = CliRunner().invoke(app, ["checkpoints", str(tmp_path), "--json", *given])
    assert json.loads(listed.stdout)["checkpoints"][0]["step"] == 500
    assert "best.pth" in listed.stderr
    audited = CliRunner().invoke(app, ["audit", str(tmp_path), *given])
    assert audited.exit_code == 0 and "best.pth" in audited.stderr
    for command in (["checkpoints"], ["audit"]):
        refused = CliRunner().invoke(app, [*command, str(tmp_path)])
        assert refused.exit_code == 2 and "500.pth: has no act_fn" in refused.stderr


@pytest.mark.parametrize("epoch", [float("inf"), float("nan"), 10**15, 1e300])
def test_a_step_that_no_run_has_is_refused_by_name(tmp_path, epoch):
    save(tmp_path, "final.pth", epoch=epoch)
    with pytest.raises(InputError, match=r"final\.pth: its epoch is"):
        read_saved(tmp_path / "final.pth")
    assert step_in_name(tmp_path / "final.pth") == "final"


def test_a_pointer_in_place_of_a_pth_file_is_named(tmp_path):
    (tmp_path / "7.pth").write_text("version https://git-lfs.github.com/spec/v1\nsize 12\n")
    with pytest.raises(InputError, match=r"7\.pth: is a git-lfs pointer, not the file"):
        read_saved(tmp_path / "7.pth")
    (tmp_path / f"{'9' * 40}.pth").touch()
    assert step_in_name(tmp_path / f"{'9' * 40}.pth") is None
