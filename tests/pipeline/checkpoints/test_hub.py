import threading
import time

import numpy as np
import pytest
from huggingface_hub.utils import close_session

from pipeline import retrying
from pipeline.checkpoints import list_checkpoints
from pipeline.checkpoints.configs import read_config
from pipeline.checkpoints.fetch import Copies
from pipeline.checkpoints.metadata import metadata_folder
from pipeline.checkpoints.places import place_of
from pipeline.errors import CheckpointError, InputError
from pipeline.models.weights import read_weights
from tests.pipeline.checkpoints.conftest import CONFIG, folder_of, tensors
from tests.pipeline.checkpoints.servers import Faults


@pytest.fixture
def run(tmp_path, write_large):
    for step in (0, 1, 2, 10):
        write_large(tmp_path / f"run/step{step}", step, sharded=step == 2)
    (tmp_path / "run/tokenizer_config.json").write_text("{}")
    return tmp_path / "run"


def test_branches_and_tags_are_checkpoints_pinned_to_their_commits(hub, run, write_checkpoint):
    repository = hub.add_run("owner/name", run)
    tagged = write_checkpoint(run.parent / "tagged", 512)
    commit = repository.commit(tagged, "step512", tag=True)
    found = list_checkpoints("hf://owner/name")
    assert [c.step for c in found] == [0, 1, 2, 10, 512]
    assert found[-1].uri == f"hf://owner/name@{commit}"
    repository.branches["step0"] = commit
    assert read_config(found[0].uri) == CONFIG
    assert found[0].uri not in [c.uri for c in list_checkpoints("hf://owner/name")]


def test_refs_are_listed_once_and_a_commits_files_only_ever_once(hub, run):
    hub.add_run("owner/name", run)
    list_checkpoints("hf://owner/name")
    assert len(hub.paths(containing="/refs")) == 1
    assert len(hub.paths(containing="/tree/")) == 4 + 1  # the main branch's too
    hub.forget()
    list_checkpoints("hf://owner/name")
    assert [path.rpartition("/")[2] for _, path, _ in hub.requests] == ["refs"]


def test_digests_are_the_local_ones_and_read_no_weights(hub, run):
    hub.add_run("owner/name", run)
    remote = list_checkpoints("hf://owner/name")
    assert not hub.cdn.requests
    for there, here in zip(remote, list_checkpoints(str(run)), strict=True):
        with Copies().of(here) as copy:
            assert there.digest == copy.checkpoint.digest


def test_tokens_seen_come_from_the_name_or_the_step_size(hub, write_checkpoint, tmp_path):
    for name in ("step1000-tokens4B", "step2000-tokens8B"):
        write_checkpoint(tmp_path / "run" / name)
    hub.add_run("owner/olmo", tmp_path / "run")
    uri = "hf://owner/olmo"
    assert [c.tokens_seen for c in list_checkpoints(uri)] == [4 * 10**9, 8 * 10**9]
    assert [c.tokens_seen for c in list_checkpoints(uri, 4_194_304)] == [
        1000 * 4_194_304, 2000 * 4_194_304,
    ]  # fmt: skip


def test_several_stages_must_be_told_apart(hub, write_checkpoint, tmp_path):
    for name in ("stage1-step1-tokens1B", "stage1-step2-tokens2B", "stage2-step1-tokens3B"):
        write_checkpoint(tmp_path / "run" / name)
    hub.add_run("owner/olmo", tmp_path / "run")
    with pytest.raises(InputError, match=r"2 stages \(stage1, stage2\).*such as .*@stage2-\*"):
        list_checkpoints("hf://owner/olmo")
    assert [c.step for c in list_checkpoints("hf://owner/olmo@stage1-*")] == [1, 2]
    assert metadata_folder("hf://owner/olmo@stage1-*").is_dir()


def test_two_branches_of_one_step_are_refused_unless_they_are_one_commit(hub, run):
    repository = hub.add_run("owner/name", run)
    repository.tags["step-10"] = repository.branches["step10"]
    assert len(list_checkpoints("hf://owner/name")) == 4
    repository.tags["step-10"] = repository.branches["step2"]
    with pytest.raises(InputError, match="both 'step-10' and 'step10' hold step 10"):
        list_checkpoints("hf://owner/name")


def test_fetched_weights_are_those_of_the_local_files(hub, run):
    hub.add_run("owner/name", run)
    for there, here in zip(
        list_checkpoints("hf://owner/name"), list_checkpoints(str(run)), strict=True
    ):
        with Copies().of(there) as copy:
            weights, folder = read_weights(copy.parts), folder_of(copy)
        assert not folder.exists()
        expected = read_weights(here.uri)
        assert weights.keys() == expected.keys()
        assert all(weights[name].equal(expected[name]) for name in expected)


def test_small_weight_files_that_have_no_sha256_work_too(hub, tmp_path, write_checkpoint):
    write_checkpoint(tmp_path / "run/step-3", 3)
    hub.add_run("owner/name", tmp_path / "run")
    (found,) = list_checkpoints("hf://owner/name")
    assert found.digest is None
    with Copies().of(found) as copy:
        assert np.array_equal(read_weights(copy.parts)["a.weight"], tensors(3)["a.weight"])
        digest = copy.checkpoint.digest
    assert list_checkpoints("hf://owner/name")[0].digest == digest


def test_a_folder_of_more_files_than_a_page_is_listed_whole(hub, run):
    hub.page = 2
    hub.add_run("owner/name", run)
    assert all(c.digest for c in list_checkpoints("hf://owner/name"))


def test_ranges_are_read_through_the_redirect(hub, run):
    hub.add_run("owner/name", run)
    uri, place = list_checkpoints("hf://owner/name")[0].uri, place_of("hf://")
    content = (run / "step0/model.safetensors").read_bytes()
    size = len(content)
    hub.forget()
    assert place.read(uri, "model.safetensors", 10, 20) == content[10:20]
    assert place.read(uri, "model.safetensors", size - 5) == content[-5:]
    assert place.read(uri, "model.safetensors", size, size + 5) == b""
    assert place.read(uri, "model.safetensors", 0, size + 5) == content
    assert hub.cdn.bytes_sent == 15 + size


def test_config_and_tokenizer_come_to_a_local_folder_that_is_kept(hub, run):
    hub.add_run("owner/name", run)
    first = list_checkpoints("hf://owner/name")[0]
    folder = metadata_folder("hf://owner/name", first.uri)
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*.json")) == [
        "checkpoint-0/config.json", "tokenizer_config.json",
    ]  # fmt: skip
    hub.forget()
    assert metadata_folder("hf://owner/name", first.uri) == folder
    assert hub.count == 1
    assert metadata_folder(str(run)) == run


def test_a_config_that_all_checkpoints_share_is_read_once(hub, run):
    hub.add_run("owner/name", run)
    found = list_checkpoints("hf://owner/name")
    hub.forget()
    assert [read_config(c.uri) for c in found] == [CONFIG] * 4
    assert hub.count == 1


def test_the_token_goes_to_the_hub_and_nowhere_else(hub, run, monkeypatch):
    hub.token = "hf_a_token_of_these_tests"
    hub.add_run("owner/name", run)
    with pytest.raises(InputError, match=r"hf://owner/name: (access is denied|there is no such)"):
        list_checkpoints("hf://owner/name")
    monkeypatch.setenv("HF_TOKEN", hub.token)
    first = list_checkpoints("hf://owner/name")[0]
    with Copies().of(first) as copy:
        assert folder_of(copy).is_dir()
    place_of(first.uri).read(first.uri, "model.safetensors", 0, 9)
    sent = [headers for _, _, headers in hub.cdn.requests]
    assert sent and not any("authorization" in str(headers).lower() for headers in sent)
    cache = b"".join(p.read_bytes() for p in (run.parent / "cache").rglob("*") if p.is_file())
    assert hub.token.encode() not in cache


@pytest.mark.parametrize(
    "uri",
    ["hf://", "hf://owner", "hf://../..", "hf://owner/..", "hf://o/n/../x", "hf://o/n@../x",
     "hf://owner/name@a@b", "hf://owner/na me"],
)  # fmt: skip
def test_what_is_no_repositorys_address_is_refused(hub, uri):
    with pytest.raises(InputError, match="is no repository's address; expected hf://owner/name"):
        list_checkpoints(uri)


def test_a_repository_that_is_absent_or_has_no_steps_is_refused(hub, run, tmp_path):
    with pytest.raises(InputError, match="hf://owner/none: there is no such repository"):
        list_checkpoints("hf://owner/none")
    (tmp_path / "empty").mkdir()
    hub.add_run("owner/empty", tmp_path / "empty")
    with pytest.raises(InputError, match="hf://owner/empty: holds no finished checkpoint"):
        list_checkpoints("hf://owner/empty")


def test_a_hostile_name_in_a_commit_is_never_written(hub, run, tmp_path):
    repository = hub.add_run("owner/name", run)
    commit = repository.branches["step0"]
    repository.commits[commit]["../../evil.json"] = run / "step0/config.json"
    repository.commits[commit][".hidden.json"] = run / "step0/config.json"
    first = list_checkpoints("hf://owner/name")[0]
    folder = metadata_folder(first.uri)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json"]
    assert not list(tmp_path.rglob("evil.json"))


def test_bytes_that_are_not_what_the_hub_says_are_refused(hub, run):
    hub.add_run("owner/name", run)
    first = list_checkpoints("hf://owner/name")[0]
    damaged = run / "damaged"
    content = bytearray((run / "step0/model.safetensors").read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    commit = first.uri.partition("@")[2]
    hub.repositories["owner/name"].commits[commit]["model.safetensors"] = damaged
    with (
        pytest.raises(CheckpointError, match=rf"@{commit}/model.safetensors: its sha256 is"),
        Copies().of(first) as copy,
    ):
        _ = copy.parts


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_request_in_three_failing_changes_nothing(hub, run, fast_retries, seed):
    hub.add_run("owner/name", run)
    hub.faults = Faults(share=0.33, seed=seed)
    hub.cdn.faults = Faults(share=0.33, seed=seed + 100)
    for there, here in zip(
        list_checkpoints("hf://owner/name"), list_checkpoints(str(run)), strict=True
    ):
        assert read_config(there.uri) == CONFIG
        with Copies().of(there) as copy:
            weights = read_weights(copy.parts)
        expected = read_weights(here.uri)
        assert all(weights[name].equal(expected[name]) for name in expected)
    assert hub.faults.done > 3 and hub.cdn.faults.done > 0


def test_a_busy_hub_is_asked_again(hub, run, fast_retries):
    hub.add_run("owner/name", run)
    hub.faults = Faults(first=[429, 500, 503, 429])
    assert len(list_checkpoints("hf://owner/name")) == 4


def test_a_repository_that_does_not_exist_is_said_to(hub):
    for ask in (list_checkpoints, metadata_folder):
        with pytest.raises(InputError, match="there is no such repository, or it is private"):
            ask("hf://owner/nobody")


def test_an_endpoint_that_is_no_address_is_said_at_once(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waited"))
    monkeypatch.setenv("HF_ENDPOINT", "huggingface.co")
    with pytest.raises(InputError, match="HF_ENDPOINT: expected an address that begins with https"):
        list_checkpoints("hf://owner/name")


def test_a_token_that_no_header_takes_is_said_and_not_shown(hub, run, monkeypatch):
    hub.add_run("owner/name", run)
    uri = list_checkpoints("hf://owner/name")[0].uri
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waited"))
    monkeypatch.setenv("HF_TOKEN", "hf_secr\u00e9t")
    for ask in (lambda: list_checkpoints("hf://owner/name"), lambda: place_of(uri).read(uri, "a")):
        with pytest.raises(InputError, match="holds a character that is not ASCII") as raised:
            ask()
        assert "hf_secr" not in str(raised.value)


def test_nobody_at_the_address_is_said_at_once(monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(retrying, "_answered", threading.Event())
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waited"))
    close_session()
    with pytest.raises(OSError, match=r"hf://owner/name: cannot be reached .*check the address"):
        list_checkpoints("hf://owner/name")
    assert "Retrying" not in caplog.text


def test_an_older_library_is_refused_in_one_sentence():
    pytest.importorskip("httpx2", reason="the extra hub is not installed")
    from pipeline.checkpoints.hub_client import refuse_older

    refuse_older("2.4.0")
    with pytest.raises(InputError) as refused:
        refuse_older("1.33.0")
    assert str(refused.value) == (
        "runs on the Hugging Face Hub need huggingface_hub 2, and 1.33.0 is installed: "
        "pip install 'ontogeny[hub]'"
    )
