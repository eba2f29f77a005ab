"""Runs as people keep them: odd checkpoints among good ones, several formats, and stray files.

Losses are compared with those of transformers' own forward pass.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributed import checkpoint as dcp

from flows.cli import app
from pipeline import Analysis, analyze, open_run
from pipeline.analysis.summary import Summary
from pipeline.auditing import audit
from pipeline.checkpoints import list_run
from pipeline.errors import InputError
from tests.pipeline.checkpoints.formats.models import (
    IDS,
    assert_same,
    losses_by,
    losses_of,
    tiny,
    weights_of,
)
from tests.pipeline.checkpoints.test_run_places import address, settled  # noqa: F401, a fixture

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 9\n"
WRAPPER = "_fsdp_wrapped_module."


def checkpoint(folder: Path, step: int) -> Path:
    """Write a checkpoint of transformers; return its folder."""
    tiny(seed=step).save_pretrained(folder / f"step-{step}")
    return folder / f"step-{step}"


def state(step: int, prefix: str = "") -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tiny(seed=step).state_dict().items()}


def saved(folder: Path, step: int, name: str, content: object) -> None:
    """Write a checkpoint of a config and one file of torch.save."""
    tiny(seed=step).config.save_pretrained(folder / f"step-{step}")
    torch.save(content, folder / f"step-{step}" / name)


def analysed(run: Path, **settings: object) -> Summary:
    np.save(run.parent / "ids.npy", IDS)
    text = {"kind": "array", "path": str(run.parent / "ids.npy"), "sequences": 4, "length": 16}
    return analyze(
        Analysis.model_validate({
            "checkpoints": str(run), "store": str(run.parent / "a.zarr"), "inputs": {"text": text},
            "measures": {"token_loss": {"early_token": 4, "late_token": 14}}, **settings,
        })
    )  # fmt: skip


def test_a_run_of_several_formats_has_the_losses_of_transformers(tmp_path: Path):
    run = tmp_path / "run"
    checkpoint(run, 1)
    saved(run, 2, "model.pt", {"state_dict": state(2, "module._orig_mod."), "epoch": 3})
    saved(run, 3, "mp_rank_00_model_states.pt", {"module": state(3), "global_steps": 3})
    inner = {name.replace("layers.", f"layers.{WRAPPER}"): t for name, t in state(4).items()}
    saved(run, 4, "pytorch_model.bin", {f"{WRAPPER}{name}": t for name, t in inner.items()})
    for step in (1, 2, 3, 4):
        (run / f"step-{step}").rename(run / f"step-{step}0")
    found = losses_of(settled(run), tmp_path / "a.zarr")
    expected = [losses_by(tiny(seed=step)) for step in (1, 2, 3, 4)]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_weights_of_mixed_precision_have_the_losses_of_transformers(tmp_path: Path):
    run = tmp_path / "run"
    checkpoint(run, 1)
    expected = [losses_by(tiny(seed=1))]
    for step, dtype in ((2, torch.bfloat16), (3, torch.float16)):
        # One half of the weights only, as mixed-precision training may save them.
        mixed = {n: t.to(dtype) if "mlp" in n else t for n, t in state(step).items()}
        saved(run, step, "pytorch_model.bin", mixed)
        model = tiny(seed=step)
        model.load_state_dict(mixed)
        expected.append(losses_by(model))
    np.testing.assert_allclose(losses_of(settled(run), tmp_path / "a.zarr"), expected, atol=1e-5)


@pytest.mark.parametrize("odd", [1, 3], ids=["first", "last"])
def test_one_git_lfs_pointer_leaves_the_others_computed(tmp_path: Path, odd: int):
    run = tmp_path / "run"
    for step in (1, 2, 3):
        checkpoint(run, step)
    (run / f"step-{odd}/model.safetensors").write_bytes(POINTER)
    (fault,) = audit(str(settled(run))).faults
    # The file is named once.
    assert fault.detail == "model.safetensors: is a git-lfs pointer, not the file: run git lfs pull"
    summary = analysed(run)
    assert list(summary.failed) == [odd] and not summary.worked
    steps = open_run(str(tmp_path / "a.zarr"))["token_loss"].step.to_numpy()
    assert steps.tolist() == sorted({1, 2, 3} - {odd})


def test_empty_tensors_are_not_called_copies_of_the_last_step(tmp_path: Path):
    run = tmp_path / "run"
    checkpoint(run, 5)
    for step in (10, 20):
        saved(run, step, "pytorch_model.bin", {name: torch.empty(0) for name in state(step)})
    faults = audit(str(settled(run))).faults
    assert {(fault.step, fault.kind) for fault in faults} == {
        (10, "empty-file"), (20, "empty-file"),
    }  # fmt: skip
    assert "as DeepSpeed ZeRO-3 saves them: gather them with zero_to_fp32.py" in faults[0].detail
    summary = analysed(run)
    assert sorted(summary.failed) == [10, 20] and summary.computed == [5] and not summary.masked


def other_files(folder: Path) -> None:
    for name in ("best.pt", "optimizer.pt"):
        torch.save({"a": torch.zeros(2)}, folder / name)


def test_files_without_a_step_do_not_hide_checkpoints_below(
    tmp_path: Path,
    address: Callable[[Path], str],  # noqa: F811
):
    run = tmp_path / "run"
    for step in (1, 2):
        checkpoint(run / "checkpoints", step)
    other_files(run)
    assert [one.step for one in list_run(address(run)).checkpoints] == [1, 2]


def test_models_of_unknown_names_are_found_beside_files_without_a_step(tmp_path: Path):
    for name in ("mine-a", "mine-b"):
        tiny().save_pretrained(tmp_path / name)
    other_files(tmp_path)
    with pytest.raises(InputError, match=r"found: best\.pt, mine-a, mine-b"):
        list_run(str(settled(tmp_path)))


def test_what_is_advised_for_a_file_without_a_step_works(tmp_path: Path):
    run = tmp_path / "run"
    run.mkdir()
    torch.save({"model": state(0, "_orig_mod."), "iter_num": 500}, run / "ckpt.pt")
    with pytest.raises(InputError) as refused:
        list_run(str(run))
    assert "rename each to its step, as in ckpt_1000.pt, or list them in a CSV" in str(
        refused.value
    )
    tiny().config.save_pretrained(run)
    listed = tmp_path / "list.csv"
    listed.write_text("step,address\n500,run/ckpt.pt\n")
    (one,) = list_run(str(listed)).checkpoints
    assert one.step == 500
    (run / "ckpt.pt").rename(run / "ckpt_500.pt")
    assert_same(weights_of(run), state(0))


def megatron(folder: Path) -> None:
    (folder / "iter_0001000/mp_rank_00").mkdir(parents=True)
    torch.save({"model": {}}, folder / "iter_0001000/mp_rank_00/model_optim_rng.pt")


def without_shards(folder: Path) -> None:
    inside = folder / "checkpoint-10/pytorch_model_fsdp_0"
    dcp.save({"model": state(0)}, checkpoint_id=inside, no_dist=True)
    tiny().config.save_pretrained(folder / "checkpoint-10")
    for shard in inside.glob("*.distcp"):
        shard.unlink()


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (megatron, "a checkpoint of Megatron-LM: export it to the Hugging Face layout"),
        (without_shards, r"without its shards, \*\.distcp: copy them too"),
    ],
)
def test_the_layout_is_named_before_a_missing_config(
    tmp_path: Path, write: Callable[[Path], None], sentence: str
):
    write(tmp_path / "run")
    settled(tmp_path / "run")
    with pytest.raises(InputError, match=sentence):
        summary = analysed(tmp_path / "run")
        raise InputError(next(iter(summary.failed.values())))


def test_a_missing_config_is_said_with_what_can_be_given(tmp_path: Path):
    for step in (1, 2):
        (checkpoint(tmp_path / "run", step) / "config.json").unlink()
    with pytest.raises(InputError, match=r"or give its path as `config` \(and 1 more such"):
        analysed(settled(tmp_path / "run"))


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    """Run a command; return its output and its errors, as they are printed."""
    with pytest.raises(SystemExit):
        app([*arguments])
    return capsys.readouterr()


def test_300_odd_names_take_one_line_and_are_all_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "run"
    checkpoint(run, 1)
    for number in range(300):
        (run / f"mine-{number}-merged").mkdir()
        for name in ("config.json", "model.safetensors"):
            shutil.copy(run / "step-1" / name, run / f"mine-{number}-merged")
    settled(run)
    _, said = answer(capsys, "checkpoints", str(run))
    (line,) = [one for one in said.splitlines() if "not understood" in one]
    assert "name not understood: 300 (mine-0-merged, " in line and len(line) < 400
    assert line.endswith('give `names`, as in "mine-{step}-merged"')
    listed: Mapping[str, list[object]] = json.loads(
        answer(capsys, "checkpoints", str(run), "--json")[0]
    )
    assert len(listed["left_out"]) == 300


def test_a_summary_of_many_failures_stays_short():
    summary = Summary("a.zarr", failed=dict.fromkeys(range(300), "damaged"))
    assert summary.sentence().startswith("300/300 checkpoints failed: [0, 1, ")
    assert summary.sentence().endswith("19, and 280 more]")
