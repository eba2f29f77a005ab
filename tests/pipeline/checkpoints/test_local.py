import json
import os
import threading
import time

import numpy as np
import pytest
import torch

from pipeline.checkpoints import list_checkpoints
from pipeline.checkpoints.configs import read_config
from pipeline.checkpoints.digests import digest_of_files
from pipeline.checkpoints.unfinished import SETTLED_AFTER
from pipeline.checkpoints.weight_files import local_parts
from pipeline.errors import InputError
from pipeline.models.weights import read_weights
from tests.pipeline.checkpoints.conftest import tensors


def steps(run) -> list[int]:
    return [checkpoint.step for checkpoint in list_checkpoints(str(run))]


def age(folder, seconds: float) -> None:
    """Make a folder and its files look as if nothing had changed for so long."""
    then = time.time() - seconds
    for path in (*folder.iterdir(), folder):
        os.utime(path, (then, then))


@pytest.mark.parametrize("spelling", ["step-", "step", "checkpoint-", "global_step"])
def test_every_spelling_is_ordered_by_step_not_by_name(tmp_path, write_checkpoint, spelling):
    for step in (1000, 2, 0, 10, 512):
        write_checkpoint(tmp_path / f"{spelling}{step}", step)
    found = list_checkpoints(str(tmp_path))
    assert [c.step for c in found] == [0, 2, 10, 512, 1000]
    assert found[2].uri == str(tmp_path / f"{spelling}10")


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("sharded", [False, True])
def test_all_formats_hold_the_same_weights(tmp_path, write_checkpoint, suffix, sharded):
    write_checkpoint(tmp_path / "step-3", 3, suffix, sharded)
    (checkpoint,) = list_checkpoints(str(tmp_path))
    read = read_weights(checkpoint.uri)
    expected = tensors(3)
    assert read.keys() == expected.keys()
    assert all(np.array_equal(read[name].numpy(), expected[name]) for name in expected)


def test_files_and_other_folders_are_no_checkpoints(tmp_path, write_checkpoint):
    write_checkpoint(tmp_path / "step-1")
    write_checkpoint(tmp_path / "tmp-checkpoint-2")
    write_checkpoint(tmp_path / ".step-3")
    (tmp_path / "runs").mkdir()
    (tmp_path / "step-4").write_text("a file")
    assert steps(tmp_path) == [1]


def test_two_folders_of_one_step_are_refused_by_name(tmp_path, write_checkpoint):
    write_checkpoint(tmp_path / "step-5")
    write_checkpoint(tmp_path / "checkpoint-005")
    with pytest.raises(InputError, match=r"both 'checkpoint-005' and 'step-5' hold step 5"):
        list_checkpoints(str(tmp_path))


def test_a_missing_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match="there is no such folder"):
        list_checkpoints(str(tmp_path / "nowhere"))
    with pytest.raises(
        InputError, match="holds no finished checkpoint; expected checkpoints named"
    ):
        list_checkpoints(str(tmp_path))


def test_tokens_seen_come_from_the_trainer_the_step_size_or_the_name(tmp_path, write_checkpoint):
    trainer = write_checkpoint(tmp_path / "checkpoint-1")
    (trainer / "trainer_state.json").write_text(json.dumps({"num_input_tokens_seen": 77}))
    write_checkpoint(tmp_path / "step2-tokens4K")
    write_checkpoint(tmp_path / "step3")
    assert [c.tokens_seen for c in list_checkpoints(str(tmp_path))] == [77, 4000, None]
    assert [c.tokens_seen for c in list_checkpoints(str(tmp_path), 10)] == [77, 20, 30]


@pytest.mark.parametrize("said", ["1e400", "-5", "NaN", "9223372036854775808", '"x"', "null"])
def test_a_count_of_tokens_that_cannot_be_is_not_known(tmp_path, write_checkpoint, said):
    folder = write_checkpoint(tmp_path / "checkpoint-1")
    (folder / "trainer_state.json").write_text(f'{{"num_input_tokens_seen": {said}}}')
    assert [c.tokens_seen for c in list_checkpoints(str(tmp_path))] == [None]


def test_a_digest_is_known_once_it_was_computed_and_not_after_a_change(tmp_path, write_checkpoint):
    folder = write_checkpoint(tmp_path / "step-1", 1)
    assert list_checkpoints(str(tmp_path))[0].digest is None
    digest = digest_of_files(local_parts(folder).files)
    assert list_checkpoints(str(tmp_path))[0].digest == digest
    other = write_checkpoint(tmp_path / "other", 2) / "model.safetensors"
    other.replace(folder / "model.safetensors")
    assert list_checkpoints(str(tmp_path))[0].digest is None
    assert digest_of_files(local_parts(folder).files) != digest


def test_a_missing_config_is_named(tmp_path, write_checkpoint):
    folder = write_checkpoint(tmp_path / "step-1")
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=rf"{folder}/config.json: is missing"):
        read_config(str(folder))


@pytest.mark.parametrize("content", ["", "{", "[1]", "\xff"])
def test_a_broken_config_is_named(tmp_path, write_checkpoint, content):
    folder = write_checkpoint(tmp_path / "step-1")
    (folder / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=rf"{folder}/config.json: (is not valid|holds no) JSON"):
        read_config(str(folder))


# A training run that is still writing.


def test_a_trainers_folder_is_listed_once_its_state_is_there(tmp_path, write_checkpoint):
    write_checkpoint(tmp_path / "checkpoint-1")
    folder = write_checkpoint(tmp_path / "checkpoint-2")
    torch.save({}, folder / "training_args.bin")
    assert steps(tmp_path) == [1]
    (folder / "trainer_state.json").write_text("{}")
    assert steps(tmp_path) == [1, 2]


def test_a_trainers_folder_without_a_state_is_listed_once_settled(tmp_path, write_checkpoint):
    """As `trainer.save_model(".../checkpoint-N")` writes it."""
    write_checkpoint(tmp_path / "checkpoint-1")
    folder = write_checkpoint(tmp_path / "checkpoint-2", sharded=True)
    torch.save({}, folder / "training_args.bin")
    age(folder, SETTLED_AFTER - 10)
    assert steps(tmp_path) == [1]
    age(folder, SETTLED_AFTER + 10)
    assert steps(tmp_path) == [1, 2]


def test_a_trainers_first_seconds_are_not_listed_and_an_old_stump_is(tmp_path, write_checkpoint):
    write_checkpoint(tmp_path / "checkpoint-1")
    folder = tmp_path / "checkpoint-2"
    folder.mkdir()
    assert steps(tmp_path) == [1]
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    assert steps(tmp_path) == [1]
    age(folder, 2 * SETTLED_AFTER)
    assert steps(tmp_path) == [1, 2]


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_a_model_file_that_is_still_growing_is_not_listed(tmp_path, write_checkpoint, suffix):
    write_checkpoint(tmp_path / "step-1")
    folder = write_checkpoint(tmp_path / "step-2", suffix=suffix)
    (file,) = local_parts(folder).files.values()
    content, done = file.read_bytes(), threading.Event()
    file.write_bytes(content[:50])

    def grow() -> None:
        for end in range(51, len(content)):
            if done.wait(0.02):
                return
            with file.open("ab") as stream:
                stream.write(content[end : end + 1])

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        assert steps(tmp_path) == [1]
    finally:
        done.set()
        writer.join()
    file.write_bytes(content)
    assert steps(tmp_path) == [1, 2]


def test_a_truncated_file_is_listed_so_that_it_is_reported(tmp_path, write_checkpoint):
    for step in (1, 2, 3):
        write_checkpoint(tmp_path / f"step-{step}")
    for step in (2, 3):
        file = tmp_path / f"step-{step}" / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-4])
    assert steps(tmp_path) == [1, 2, 3]


def test_a_real_trainers_folder_is_finished_only_after_its_last_file(tmp_path):
    """The rule rests on the order in which the installed Trainer writes its files."""
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    seen: list[list[int]] = []

    class Watch(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            seen.append(steps(tmp_path))

    model = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_embd=8, n_layer=1, n_head=1, n_positions=8))
    data = [{"input_ids": torch.arange(8), "labels": torch.arange(8)}] * 4
    arguments = TrainingArguments(
        str(tmp_path), max_steps=3, save_steps=1, report_to=[], use_cpu=True,
        per_device_train_batch_size=1, disable_tqdm=True, include_num_input_tokens_seen="all",
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=data, callbacks=[Watch()])
    save_state = trainer._save_optimizer_and_scheduler

    def before_the_state(output_dir):
        seen.append([c.step for c in list_checkpoints(str(tmp_path))] if seen else [])
        save_state(output_dir)

    trainer._save_optimizer_and_scheduler = before_the_state
    trainer.train()
    assert seen == [[], [1], [1], [1, 2], [1, 2], [1, 2, 3]]
    assert [c.tokens_seen for c in list_checkpoints(str(tmp_path))] == [8, 16, 24]
