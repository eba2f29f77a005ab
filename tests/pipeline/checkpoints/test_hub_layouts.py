"""Runs on the Hub that have no branch for each checkpoint."""

import json
from pathlib import Path

import pytest

from pipeline import audit
from pipeline.checkpoints import list_checkpoints, list_run
from pipeline.checkpoints.configs import read_config
from pipeline.checkpoints.fetch import Copies
from pipeline.checkpoints.hub_address import parse_address
from pipeline.checkpoints.metadata import metadata_folder
from pipeline.checkpoints.places import place_of
from pipeline.config import RunLayout
from pipeline.errors import CheckpointError, InputError
from pipeline.models.weights import read_weights
from tests.pipeline.checkpoints.conftest import CONFIG
from tests.pipeline.checkpoints.servers import Hub, Repository

URI = "hf://owner/name"


@pytest.fixture
def repository(hub: Hub) -> Repository:
    return hub.repositories.setdefault("owner/name", Repository())


@pytest.fixture
def run(tmp_path: Path, write_large) -> Path:
    for step in (5, 10, 15):
        write_large(tmp_path / f"run/checkpoint-{step}", step, sharded=step == 10)
    (tmp_path / "run/tokenizer_config.json").write_text("{}")
    return tmp_path / "run"


def assert_same_weights(remote: str, local: Path) -> None:
    """Compare the weights and digests of a run on the Hub with those of its folder here."""
    there, here = list_checkpoints(remote), list_checkpoints(str(local))
    assert [c.step for c in there] == [c.step for c in here]
    for one, other in zip(there, here, strict=True):
        with Copies().of(one) as copy, Copies().of(other) as mine:
            assert one.digest == mine.checkpoint.digest
            weights, expected = read_weights(copy.parts), read_weights(mine.parts)
        assert weights.keys() == expected.keys()
        assert all(weights[name].equal(expected[name]) for name in expected)
        assert read_config(one.uri) == CONFIG


def test_folders_of_one_branch_are_checkpoints_pinned_to_its_commit(hub, repository, run):
    commit = repository.commit_folders(run, "main")
    found = list_checkpoints(URI)
    assert [c.uri for c in found] == [f"{URI}@{commit}/checkpoint-{n}" for n in (5, 10, 15)]
    # the refs, the top, all files at once, and the index of the one with shards
    assert len(hub.requests) == 4
    assert_same_weights(URI, run)
    assert list_checkpoints(f"{URI}@{commit}") == list_checkpoints(URI + "@main") == found
    folder = metadata_folder(f"{URI}@main", found[0].uri)
    assert sorted(p.name for p in folder.rglob("*.json")) == [
        "config.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert audit(URI, deep=True).faults == ()
    repository.commit_files({}, "main")
    assert read_config(found[0].uri) == CONFIG


def test_folders_may_lie_in_one_of_the_branchs_folders(repository, run):
    commit = repository.commit_folders(run.parent, "main")  # which holds `run`
    assert_same_weights(URI, run)
    assert_same_weights(f"{URI}/run", run)
    assert_same_weights(f"{URI}@main/run", run)
    assert list_checkpoints(URI)[0].uri == f"{URI}@{commit}/run/checkpoint-5"


def test_several_runs_of_one_branch_must_be_told_apart(repository, run, write_checkpoint):
    write_checkpoint(run.parent / "other/step-1")
    repository.commit_folders(run.parent, "main")
    with pytest.raises(InputError, match=r"2 folders in it do: other, run; give one of them"):
        list_checkpoints(URI)
    assert [c.step for c in list_checkpoints(f"{URI}/other")] == [1]


def test_another_branch_and_its_folders_are_named(repository, run, tmp_path):
    repository.commit_folders(run, "seed/2")
    (tmp_path / "empty").mkdir()
    repository.commit_folders(tmp_path / "empty", "main")
    assert_same_weights(f"{URI}@seed%2F2", run)
    repository.commit_folders(run.parent, "nested")
    assert_same_weights(f"{URI}@nested/run", run)
    with pytest.raises(InputError, match="there is no such branch or tag: check the name"):
        list_checkpoints(f"{URI}@nowhere")
    with pytest.raises(InputError, match=r"/nowhere: there is no such commit or folder"):
        list_checkpoints(f"{URI}@nested/nowhere")


def test_the_model_may_lie_in_a_folder_of_each_branch(hub, repository, run):
    for path in run.glob("checkpoint-*"):
        files = {f"model/hf/{file.name}": file for file in path.iterdir()}
        repository.commit_files(files | {"README.md": run / "tokenizer_config.json"}, path.name)
    assert_same_weights(f"{URI}@checkpoint-*/model/hf", run)
    assert_same_weights(URI, run)  # there is no other model in them
    assert list_checkpoints(f"{URI}@checkpoint-5/model/hf")[0].uri.endswith("/model/hf")
    with pytest.raises(InputError, match="none of its 3 checkpoints has a folder model/none"):
        list_checkpoints(f"{URI}@checkpoint-*/model/none")


def test_the_model_may_lie_deeper_in_a_folder_unless_there_are_several(repository, run):
    files = {
        f"{path.name}/actor/huggingface/{file.name}": file
        for path in run.glob("checkpoint-*")
        for file in path.iterdir()
    }
    repository.commit_files(files, "main")
    assert_same_weights(URI, run)
    again = {
        f"checkpoint-15/critic/huggingface/{file.name}": file
        for file in (run / "checkpoint-15").iterdir()
    }
    repository.commit_files(files | again, "main")
    listed = list_run(URI)
    assert [c.step for c in listed.checkpoints] == [5, 10]
    (left_out,) = listed.left_out
    assert left_out.name == "checkpoint-15" and "2 folders in it hold a model" in left_out.reason


def test_folders_beside_branches_are_left_out_and_said(repository, run, write_checkpoint):
    repository.commit_folders(run, "main")
    repository.commit(write_checkpoint(run.parent / "b"), "step7")
    listed = list_run(URI)
    assert [c.step for c in listed.checkpoints] == [7]
    assert {one.name for one in listed.left_out} == {f"checkpoint-{n}" for n in (5, 10, 15)}
    assert f"give {URI}@main for these" in listed.left_out[0].reason


def test_tags_of_a_pattern_are_checkpoints(repository, run):
    for path in run.glob("checkpoint-*"):
        repository.commit(path, path.name, tag=True)
    assert_same_weights(f"{URI}@checkpoint-1?", Path(without(run, "checkpoint-5")))


def without(run: Path, name: str) -> Path:
    (run / name).rename(run.parent / name)
    return run


def test_a_repository_of_datasets_is_read_too(hub, run):
    repository = hub.repositories.setdefault("datasets/owner/name", Repository())
    repository.commit_folders(run, "main")
    assert_same_weights("hf://datasets/owner/name", run)
    assert all(path.startswith(("/api/datasets", "/datasets")) for path in hub.paths())
    with pytest.raises(InputError, match="there is no such repository"):
        list_checkpoints(URI)


def commits_of(repository: Repository, run: Path) -> list[str]:
    """Push a run as a Trainer does: a model at the top, with the step in the message."""
    pushed = [repository.commit_files({}, "main", title="initial commit")]
    for step in (5, 10, 15):
        files = {file.name: file for file in (run / f"checkpoint-{step}").iterdir()}
        title = f"Training in progress, step {step}"
        pushed.append(repository.commit_files(files, "main", title=title))
    pushed.append(repository.commit_files(files, "main", title="End of training"))
    return pushed


def test_commits_of_a_branch_are_checkpoints_and_the_others_are_said(hub, repository, run):
    pushed = commits_of(repository, run)
    listed = list_run(f"{URI}@main:commits")
    assert [c.uri for c in listed.checkpoints] == [f"{URI}@{one}" for one in pushed[1:4]]
    assert [one.name for one in listed.left_out] == ["End of training", "initial commit"]
    assert "gives no step" in listed.left_out[0].reason
    assert_same_weights(f"{URI}@main:commits", run)
    # Where nothing else is there, nobody has to say so.
    assert list_run(URI) == listed
    hub.forget()
    list_run(f"{URI}@main:commits")
    assert [path.rpartition("/")[2] for path in hub.paths()] == ["refs"]


def test_of_a_training_that_was_resumed_the_last_commit_counts(repository, run):
    first = commits_of(repository, run)
    again = {file.name: file for file in (run / "checkpoint-5").iterdir()}
    last = repository.commit_files(again, "main", title="Training in progress, step 15")
    listed = list_run(f"{URI}@main:commits")
    assert listed.checkpoints[-1].uri == f"{URI}@{last}"
    assert first[3] in [one.name for one in listed.left_out]


@pytest.mark.parametrize(
    ("title", "step"),
    [("step-7", 7), ("checkpoint-7", 7), ("Saving HF Model -- Step 7", 7),
     ("Training in progress, step 7, checkpoint", None), ("Training in progress, step ٧", None),
     ("Saving Logs -- Step 7", None), ("", None), ("step-" + "9" * 40, None)],
)  # fmt: skip
def test_the_message_of_a_commit_gives_its_step(repository, run, title, step):
    files = {file.name: file for file in (run / "checkpoint-5").iterdir()}
    repository.commit_files(files, "main", title="step-1")
    repository.commit_files(files, "main", title=title or " ")
    steps = [c.step for c in list_checkpoints(f"{URI}@main:commits")]
    assert steps == ([1, step] if step else [1])


def test_many_commits_take_a_request_for_each_page(hub, repository, run):
    files = {file.name: file for file in (run / "checkpoint-5").iterdir()}
    for step in range(50):
        title = f"Training in progress, step {step}"
        repository.commit_files(files, "main", title=title)
    hub.most_commits = 20
    assert len(list_checkpoints(f"{URI}@main:commits")) == 50
    assert len(hub.paths(containing="/commits/")) == 3


def test_a_history_without_a_step_is_no_run(repository, run):
    files = {file.name: file for file in (run / "checkpoint-5").iterdir()}
    repository.commit_files(files, "main", title="Upload model")
    with pytest.raises(InputError, match="holds no finished checkpoint"):
        list_checkpoints(URI)
    with pytest.raises(InputError, match=r"name not understood: 1 \(Upload model\)|Upload model"):
        list_checkpoints(f"{URI}@main:commits")


@pytest.mark.parametrize(
    ("uri", "shown"),
    [("hf://o/n/a/b", "hf://o/n@main/a/b"), ("hf://o/n@x%2Fy/a", "hf://o/n@x%2Fy/a"),
     ("hf://datasets/o/n@v1", "hf://datasets/o/n@v1"), ("hf://o/n/", "hf://o/n"),
     ("hf://o/n@main:commits", "hf://o/n@main:commits"), ("hf://o/n@a*/b", "hf://o/n@a*/b"),
     ("hf://o/n@main/epoch=3-step=100", "hf://o/n@main/epoch=3-step=100")],
)  # fmt: skip
def test_an_address_is_spelled_as_it_was_given(uri, shown):
    assert str(parse_address(uri)) == shown
    assert parse_address(shown) == parse_address(uri)


@pytest.mark.parametrize(
    "uri",
    ["hf://o/n@main:all", "hf://o/n@:commits", "hf://o/n@m/../x", "hf://o/n/.git/x", "hf://o/n//x",
     "hf://o/n@m//x", "hf://o/n@m/a@b", "hf://o/n@m/a\x00b", "hf://o/n/x/../y"],
)  # fmt: skip
def test_a_path_that_leads_out_is_no_address(uri):
    with pytest.raises(InputError, match="is no repository's address; expected"):
        parse_address(uri)


def test_a_folder_without_weights_is_listed_and_fails_by_itself(repository, run):
    for path in (run / "checkpoint-10").iterdir():
        if path.suffix == ".safetensors":
            path.unlink()
    repository.commit_folders(run, "main")
    found = list_checkpoints(URI)
    assert [c.step for c in found] == [5, 10, 15]
    with pytest.raises(CheckpointError, match="checkpoint-10"), Copies().of(found[1]) as copy:
        _ = copy.parts


def test_shards_of_one_level_down_are_listed_with_their_path(repository, run):
    files = {f"checkpoint-5/global_step5/{f.name}x": f for f in (run / "checkpoint-5").iterdir()}
    repository.commit_files(files, "main")
    (found,) = list_checkpoints(URI)
    assert found.files is not None and "global_step5/model.safetensorsx" in found.files
    content = place_of(found.uri).read(found.uri, "global_step5/config.jsonx")
    assert json.loads(content) == CONFIG


def test_names_of_the_users_own_are_those_of_branches_folders_and_commits(repository, run):
    def steps(uri: str, names: str) -> list[int]:
        return [c.step for c in list_run(uri, layout=RunLayout(names=names)).checkpoints]

    files = {file.name: file for file in (run / "checkpoint-5").iterdir()}
    repository.commit_files(files, "main", title="loss 2.5 after 70 updates")
    for step in (7, 8):
        inside = {f"model/{name}": file for name, file in files.items()}
        repository.commit_files(inside, f"my/run-{step}")
        repository.commit_files(inside, f"mine-{step}")
    assert steps(URI, "my/run-{step}") == [7, 8]
    assert steps(URI, "mine-{step}/model") == [7, 8]
    assert steps(f"{URI}@main:commits", "loss * after {step} updates") == [70]
    repository.commit_files({f"a{n}b/x/{k}": f for n in (1, 2) for k, f in files.items()}, "other")
    assert steps(f"{URI}@other", "a{step}b/x") == [1, 2]


def test_a_list_names_checkpoints_in_repositories_branches_and_folders(hub, run, tmp_path):
    for name, branch, path in (("a", "main", ""), ("b", "step7", ""), ("c", "main", "x/y/")):
        made = hub.repositories.setdefault(f"owner/{name}", Repository())
        files = {f"{path}{file.name}": file for file in (run / "checkpoint-5").iterdir()}
        made.commit_files(files, branch)
    rows = [
        {"step": 1, "address": "hf://owner/a", "tokens": 5},
        {"step": 2, "address": "hf://owner/b@step7"},
        {"step": 3, "address": "hf://owner/c@main/x/y"},
    ]
    (tmp_path / "list.json").write_text(json.dumps(rows))
    found = list_checkpoints(str(tmp_path / "list.json"))
    assert [(c.step, c.tokens_seen) for c in found] == [(1, 5), (2, None), (3, None)]
    for one in found:
        assert parse_address(one.uri).is_commit and read_config(one.uri) == CONFIG
        with Copies().of(one) as copy:
            assert read_weights(copy.parts)


def test_a_file_that_is_a_checkpoint_by_itself_is_listed_and_pinned(repository, run):
    weights = run / "checkpoint-5/model.safetensors"
    commit = repository.commit_files(
        {"step_5.safetensors": weights, "step_6.safetensors": weights}, "main"
    )
    found = list_checkpoints(URI)
    assert [c.uri for c in found] == [f"{URI}@{commit}/step_{n}.safetensors" for n in (5, 6)]
    (files,) = place_of(URI).files_of([found[0].uri])
    assert (
        files["step_5.safetensors"].at
        == f"{URI}@{commit}"
        == next(file.at for file in (found[0].files or {}).values())
    )
