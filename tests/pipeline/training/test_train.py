"""Runs of a second: the files that they write, with or without an interruption."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.errors import InputError
from pipeline.models.organism import OrganismForCausalLM
from pipeline.training import Training, train

TASKS = {
    "modular": {"kind": "modular_arithmetic", "p": 7, "train_share": 0.5},
    "text": {"kind": "text", "vocabulary": 270, "context": 8},
}


def training(output: Path, task: str = "modular", **changes) -> Training:
    chosen = dict(TASKS[task])
    if task == "text":
        chosen["path"] = str(output.parent / "corpus.txt")
        numbers = " ".join(f"{n * n}" for n in range(600))
        Path(chosen["path"]).write_text(numbers)
    settings = {
        "name": "tiny",
        "output": str(output),
        "task": chosen,
        "model": {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 32},
        "optimizer": {"learning_rate": 0.01, "weight_decay": 0.1, "warmup_steps": 3},
        "steps": 13,
        "batch_size": 4,
        "threads": 1,
        "checkpoints": {"log_until": 4, "every": 5},
        **changes,
    }
    return Training.model_validate(settings)


def contents(run: Path) -> dict[str, bytes]:
    files = sorted(path for path in run.rglob("*") if path.is_file())
    return {str(p.relative_to(run)): p.read_bytes() for p in files if p.name != "training.yaml"}


@pytest.fixture(scope="module", params=TASKS)
def finished(request, tmp_path_factory) -> tuple[Training, list[tuple[int, int, float]]]:
    calls = []
    run = training(tmp_path_factory.mktemp(request.param) / "run", request.param)
    assert train(run, lambda *call: calls.append(call)) == Path(run.output)
    return run, calls


def test_a_run_leaves_its_scheduled_checkpoints_and_nothing_half_made(finished):
    run, calls = finished
    names = {path.name for path in Path(run.output).iterdir()}
    extra = (
        {"corpus.npy", "tokenizer.json", "tokenizer_config.json"}
        if run.task.kind == "text"
        else set()
    )
    assert names == {f"step-{s}" for s in (0, 1, 2, 4, 5, 10, 13)} | {"training.yaml"} | extra
    assert [call[:2] for call in calls] == [(step, 13) for step in range(1, 14)]


def test_every_checkpoint_is_an_ordinary_one(finished):
    run, _ = finished
    for folder in Path(run.output).glob("step-*"):
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert isinstance(model, OrganismForCausalLM)
        assert model.config.vocab_size == run.task.vocabulary
        if run.task.kind == "text":
            tokenizer = AutoTokenizer.from_pretrained(folder)
            assert tokenizer.decode(tokenizer("12 144")["input_ids"]) == "12 144"
            assert tokenizer.bos_token_id == model.config.bos_token_id == 0


def test_step_zero_is_the_initialisation_and_later_ones_differ(finished):
    run, _ = finished
    torch.manual_seed(run.seed)
    fresh = OrganismForCausalLM(run.organism()).state_dict()
    first, last = (load_file(f"{run.output}/step-{s}/model.safetensors") for s in (0, 13))
    assert all(torch.equal(fresh[name], first[name]) for name in fresh)
    assert not any(torch.equal(fresh[name], last[name]) for name in fresh if "norm" not in name)


def test_the_first_step_is_adamws_by_hand(finished):
    # after one step Adam's ratio is g / (|g| + eps), the sign of the gradient, whatever beta
    run, _ = finished
    first, second = (load_file(f"{run.output}/step-{s}/model.safetensors") for s in (0, 1))
    rate = 0.01 / 3
    change = second["lm_head.weight"] - first["lm_head.weight"] * (1 - rate * 0.1)
    close = (change.abs() - rate).abs() < 0.01 * rate
    assert close.float().mean() > 0.9  # the others' gradients are zero, or as small as eps


def test_a_finished_run_is_left_alone(finished):
    run, _ = finished
    before = {path: path.stat().st_mtime_ns for path in Path(run.output).rglob("*")}
    train(run, lambda *call: pytest.fail("a step was taken"))
    assert before == {path: path.stat().st_mtime_ns for path in Path(run.output).rglob("*")}


def test_a_removed_checkpoint_is_made_again_as_it_was(finished):
    run, _ = finished
    before = contents(Path(run.output))
    for path in (Path(run.output) / "step-5").iterdir():
        path.unlink()
    (Path(run.output) / "step-5").rmdir()
    train(run)
    assert contents(Path(run.output)) == before


# Each attempt is a fork that ends by SIGKILL just before its n-th file operation or optimizer
# step, so that every state which a kill can leave on disk is met.
KILLED = """
import os, shutil, signal, sys
from pathlib import Path
import numpy as np, torch
from safetensors.torch import load_file
from pipeline.models.organism import OrganismForCausalLM
from pipeline.training import load_training, train

configured, left = load_training(sys.argv[1]), 0

def deadly(owner, name):
    real = getattr(owner, name)
    def call(*args, **kwargs):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    setattr(owner, name, call)

for owner, name in [(Path, "rename"), (Path, "write_text"), (torch, "save"), (np, "save"),
                    (OrganismForCausalLM, "save_pretrained"), (torch.optim.AdamW, "step"),
                    (shutil, "copy"), (shutil, "rmtree"), (Path, "unlink")]:
    deadly(owner, name)

for first in (1, 5):
    training = configured.model_copy(update={"output": f"{configured.output}-{first}"})
    for attempt in range(200):
        left = first + attempt
        if not (child := os.fork()):
            train(training)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        for folder in Path(training.output).glob("step-*"):
            load_file(folder / "model.safetensors"), (folder / "config.json").read_text()
        if status == 0:
            break
        assert os.WIFSIGNALED(status), status
    print("killed", attempt)
"""


def test_kills_at_any_moment_leave_no_trace(finished, tmp_path):
    run, _ = finished
    config = tmp_path / "run.yaml"
    config.write_text((Path(run.output) / "training.yaml").read_text())
    output = tmp_path / "again"
    config.write_text(config.read_text().replace(f"output: {run.output}", f"output: {output}"))
    command = [sys.executable, "-c", KILLED, str(config)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert all(int(line.split()[-1]) >= 5 for line in printed.splitlines())
    for first in (1, 5):
        assert contents(Path(f"{output}-{first}")) == contents(Path(run.output))


def test_training_learns(tmp_path):
    losses = []
    run = training(tmp_path / "run", steps=120, batch_size=None)
    train(run, lambda step, total, loss: losses.append(loss))
    assert losses[0] > 1.8 and losses[-1] < 0.1  # ln 7 = 1.95


def test_the_callers_threads_and_random_numbers_are_untouched(tmp_path):
    threads = torch.get_num_threads()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(training(tmp_path / "run", threads=threads + 1, steps=2))
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.rand(3), expected)


def test_a_loss_that_is_not_finite_ends_the_run_with_a_sentence(tmp_path):
    run = training(tmp_path / "run", optimizer={"learning_rate": 1e30}, steps=20)
    with pytest.raises(InputError, match=r"the loss is (nan|inf) after \d+ steps: lower"):
        train(run)


def test_two_processes_do_not_train_into_one_folder(tmp_path):
    with (
        FileLock(tmp_path / ".lock"),
        pytest.raises(InputError, match="another process is training into it"),
    ):
        train(training(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_run_of_another_configuration_is_refused_unchanged(finished):
    run, _ = finished
    before = contents(Path(run.output))
    with pytest.raises(InputError, match="steps is 13 there, 14 here"):
        train(run.model_copy(update={"steps": 14}))
    assert contents(Path(run.output)) == before
