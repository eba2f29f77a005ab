"""Read what transformers' Trainer itself pushes to the Hub, by its strategies."""

import shutil
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer
from transformers.trainer_callback import TrainerCallback

from pipeline.checkpoints import list_checkpoints, list_run
from pipeline.checkpoints.fetch import Copies
from pipeline.models.weights import read_weights
from tests.pipeline.callback.training import trainer
from tests.pipeline.checkpoints.servers import Hub, Repository

Pushed = Callable[..., Repository]


class Job:
    """An upload that has ended."""

    def done(self) -> bool:
        return True

    def result(self) -> str:
        return ""


class Uploads:
    """The uploading part of huggingface_hub's HfApi, into a repository of the tests' server."""

    def __init__(self, repository: Repository, copies: Path) -> None:
        self._repository, self._copies = repository, copies
        self._files: dict[str, Path] = {}

    def upload_folder(
        self, folder_path: str, commit_message: str, path_in_repo: str = "",
        ignore_patterns: list[str] | None = None, **_: Any,
    ) -> Job:  # fmt: skip
        kept = self._copies / str(len(self._repository.commits))
        for path in sorted(path for path in Path(folder_path).rglob("*") if path.is_file()):
            inside = path.relative_to(folder_path).as_posix()
            if any(fnmatchcase(inside, one) for one in ignore_patterns or ()):
                continue
            copy = kept / inside
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
            self._files[f"{path_in_repo}/{inside}".lstrip("/")] = copy
        self._repository.commit_files(dict(self._files), "main", title=commit_message)
        return Job()


class Remember(TrainerCallback):
    """Keep the checkpoints of a training where a Trainer does not remove them."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        name = f"checkpoint-{state.global_step}"
        shutil.copytree(Path(args.output_dir) / name, self._target / name)


@pytest.fixture
def pushed(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pushed]:
    """Return `pushed(strategy)`, which trains six steps, and pushes at each second one."""

    def push(strategy: str) -> Repository:
        repository = hub.repositories.setdefault("owner/name", Repository())
        uploads = Uploads(repository, tmp_path / "copies")
        monkeypatch.setattr("transformers.trainer.hf_api", lambda: uploads)
        monkeypatch.setattr(Trainer, "init_hf_repo", lambda self, **_: None)
        made = trainer(
            tmp_path / "out", [Remember(tmp_path / "saved")], push_to_hub=True,
            hub_strategy=strategy, hub_model_id="owner/name",
        )  # fmt: skip
        made.hub_model_id, made.push_in_progress = "owner/name", None
        made.train()
        return repository

    yield push


def assert_those_saved(uri: str, saved: Path) -> None:
    found = list_checkpoints(uri)
    assert [c.step for c in found] == [2, 4, 6]
    for one in found:
        with Copies().of(one) as copy:
            weights = read_weights(copy.parts)
        expected = read_weights(str(saved / f"checkpoint-{one.step}"))
        assert weights.keys() == expected.keys()
        assert all(weights[name].equal(expected[name]) for name in expected)


def test_every_save_is_a_commit(pushed: Pushed, tmp_path: Path) -> None:
    pushed("every_save")
    assert_those_saved("hf://owner/name", tmp_path / "saved")
    assert_those_saved("hf://owner/name@main:commits", tmp_path / "saved")


def test_all_checkpoints_are_folders_and_commits(pushed: Pushed, tmp_path: Path) -> None:
    pushed("all_checkpoints")
    assert_those_saved("hf://owner/name", tmp_path / "saved")
    assert "/checkpoint-2" in list_checkpoints("hf://owner/name")[0].uri
    assert_those_saved("hf://owner/name@main:commits", tmp_path / "saved")
    left_out = list_run("hf://owner/name@main:commits").left_out
    assert any("step 2, checkpoint" in one.name for one in left_out)


def test_the_last_checkpoint_alone_is_no_run_but_its_commits_are(
    pushed: Pushed, tmp_path: Path
) -> None:
    pushed("checkpoint")
    assert_those_saved("hf://owner/name", tmp_path / "saved")
