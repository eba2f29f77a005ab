"""Runs read from the local cache of huggingface_hub, and a Hub that does not answer well."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub.utils import close_session

from pipeline import retrying
from pipeline.analysis.estimate import dry_run
from pipeline.checkpoints import list_checkpoints, list_run
from pipeline.checkpoints.configs import read_config
from pipeline.checkpoints.fetch import Copies
from pipeline.checkpoints.places import place_of
from pipeline.config import Analysis
from pipeline.errors import CheckpointError, InputError
from pipeline.models.weights import read_weights
from tests.pipeline.checkpoints.conftest import CONFIG
from tests.pipeline.checkpoints.servers import Faults, Hub, Repository

URI = "hf://owner/name"


@pytest.fixture
def run(tmp_path: Path, write_large) -> Path:
    for step in (0, 1, 2):
        write_large(tmp_path / f"hosted/step{step}", step, sharded=step == 2)
    return tmp_path / "hosted"


@pytest.fixture
def downloaded(hub: Hub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cache with two of three branches, and of the third its config, by the library."""
    hub.add_run("owner/name", run)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    given = {"endpoint": hub.url, "cache_dir": tmp_path / "hub"}
    for step in (0, 2):
        snapshot_download("owner/name", revision=f"step{step}", **given)
    hf_hub_download("owner/name", "config.json", revision="step1", **given)
    monkeypatch.setenv("ONTOGENY_CACHE", str(tmp_path / "own"))
    hub.forget()
    return tmp_path / "hub"


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "is_offline_mode", lambda: True)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waited"))


def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody answer at the Hub's address, as at the first request of a process."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(retrying, "_answered", threading.Event())
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waited"))
    close_session()


@pytest.mark.parametrize("cut", [offline, unreachable])
def test_what_was_downloaded_is_read_without_the_hub(hub, run, downloaded, monkeypatch, cut):
    online = {c.step: c for c in list_checkpoints(URI)}
    hub.forget()
    monkeypatch.setenv("ONTOGENY_CACHE", str(downloaded / "another"))
    cut(monkeypatch)
    listed = list_run(URI)
    assert [c.step for c in listed.checkpoints] == [0, 2]
    for one in listed.checkpoints:
        assert (one.uri, one.digest) == (online[one.step].uri, online[one.step].digest)
        assert read_config(one.uri) == CONFIG
        with Copies().of(one) as copy:
            weights = read_weights(copy.parts)
        expected = read_weights(run / f"step{one.step}")
        assert all(weights[name].equal(expected[name]) for name in expected)
    assert not hub.requests
    reasons = {one.name: one.reason for one in listed.left_out}
    assert reasons["step1"] == "its weights were not downloaded"
    assert list(reasons) == ["step1"]
    (note,) = (one for one in listed.notes if str(downloaded / "models--owner--name") in one)
    assert ("HF_HUB_OFFLINE is set" if cut is offline else "cannot be reached") in note


@pytest.mark.parametrize(("cut", "kind"), [(offline, InputError), (unreachable, OSError)])
def test_configs_without_any_weights_are_said(hub, run, tmp_path, monkeypatch, cut, kind):
    hub.add_run("owner/name", run)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    given = {"endpoint": hub.url, "cache_dir": tmp_path / "hub"}
    for step in (0, 1):
        hf_hub_download("owner/name", "config.json", revision=f"step{step}", **given)
    cut(monkeypatch)
    with pytest.raises(kind, match=r"weights of its 2 checkpoints \(step0, step1\) were not down"):
        list_checkpoints(URI)


def test_what_the_cache_lacks_is_no_damage_while_nobody_answers(hub, run, downloaded, monkeypatch):
    uris = {one.step: one.uri for one in list_checkpoints(URI)}
    place = place_of(URI)
    unreachable(monkeypatch)
    assert place.read(uris[0], "model.safetensors", 0, 5)
    with pytest.raises(OSError, match=r"model\.safetensors: cannot be reached") as raised:
        place.read(uris[1], "model.safetensors", 0, 5)
    assert retrying.is_absent(raised.value) and retrying.may_pass(raised.value)
    offline(monkeypatch)
    with pytest.raises(CheckpointError, match="is not in the local cache"):
        place.read(uris[1], "model.safetensors", 0, 5)


def test_offline_what_is_here_counts_and_not_what_was_listed_before(
    hub, run, downloaded, monkeypatch
):
    assert len(list_checkpoints(URI)) == 3
    offline(monkeypatch)
    assert [c.step for c in list_checkpoints(URI)] == [0, 2]


def test_ranges_of_the_cache_are_those_of_the_files(hub, run, downloaded, monkeypatch):
    offline(monkeypatch)
    uri, place = list_checkpoints(URI)[0].uri, place_of("hf://")
    content = (run / "step0/model.safetensors").read_bytes()
    size = len(content)
    for start, stop in ((0, None), (10, 20), (size - 5, None), (size, size + 5), (0, size + 5)):
        assert place.read(uri, "model.safetensors", start, stop) == content[start:stop]
    with pytest.raises(CheckpointError, match=r"none.json: is not in the local cache"):
        place.read(uri, "none.json")


def test_an_analysis_is_estimated_offline(hub, downloaded, monkeypatch, make_run, tmp_path):
    repository = hub.add_run("owner/model", make_run([0, 1]))
    for name in ("main", *repository.branches):
        snapshot_download("owner/model", revision=name, endpoint=hub.url, cache_dir=downloaded)
    offline(monkeypatch)
    analysis = Analysis.model_validate(
        {"checkpoints": "hf://owner/model", "store": str(tmp_path / "a"), "measures": ["copying"]}
    )
    assert dry_run(analysis).checkpoints == 2


def test_a_damaged_file_of_the_cache_is_refused(downloaded, monkeypatch):
    offline(monkeypatch)
    first = list_checkpoints(URI)[0]
    commit = first.uri.partition("@")[2]
    blob = (downloaded / "models--owner--name/snapshots" / commit / "model.safetensors").resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(CheckpointError, match="its sha256 is"), Copies().of(first) as copy:
        _ = copy.parts


def test_a_link_out_of_the_cache_is_not_followed(downloaded, tmp_path, monkeypatch):
    offline(monkeypatch)
    first = list_checkpoints(URI)[0]
    commit = first.uri.partition("@")[2]
    (tmp_path / "secret").write_text("{}")
    link = downloaded / "models--owner--name/snapshots" / commit / "config.json"
    link.unlink()
    link.symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=r"config.json: is not in the local cache"):
        read_config(first.uri)


@pytest.mark.parametrize("name", ["refs/step0", "refs/other"])
def test_a_damaged_ref_of_the_cache_is_no_checkpoint(downloaded, monkeypatch, name):
    (downloaded / "models--owner--name" / name).write_bytes(b"\xff../../..\n")
    offline(monkeypatch)
    assert 0 not in [c.step for c in list_checkpoints(URI)] or name == "refs/other"


def test_without_a_cache_offline_mode_is_said_at_once(hub, downloaded, monkeypatch):
    offline(monkeypatch)
    with pytest.raises(InputError, match=r"owner/none: is not in the local cache .*unset it, or"):
        list_checkpoints("hf://owner/none")
    with pytest.raises(InputError, match="no messages of commits"):
        list_checkpoints(f"{URI}@step0:commits")


# Prints how long the command waited in all, whatever else the machine does meanwhile.
WAITING = """
import atexit, time
waited, sleep = [0.0], time.sleep
def measured(seconds):
    waited[0] += seconds
    sleep(seconds)
time.sleep = measured
atexit.register(lambda: print(waited[0]))
from ontogeny import main
main()
"""


def test_a_new_process_says_at_once_that_nobody_answers(tmp_path):
    """Run the command itself: nothing of it, nor of the library, waits or prints its attempts."""
    pytest.importorskip("httpx2", reason="the extra hub is not installed")
    done = subprocess.run(
        [sys.executable, "-c", WAITING, "checkpoints", URI],
        env={"HF_ENDPOINT": "http://127.0.0.1:9", "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        timeout=120,  # for what waits by other means than a sleep
    )
    assert done.returncode == 2 or done.returncode == 1
    assert "cannot be reached" in done.stderr and "Retrying" not in done.stderr + done.stdout
    assert len(done.stderr.strip().splitlines()) == 1
    assert float(done.stdout) == 0


def test_each_request_is_tried_by_one_party_only(hub, run, fast_retries):
    hub.add_run("owner/name", run)
    hub.faults = Faults(share=1.0, kinds=(503,))
    with pytest.raises(OSError, match=r"owner/name: cannot be reached .*try again later"):
        list_checkpoints(URI)
    assert len(hub.requests) == retrying.ATTEMPTS
    hub.faults = Faults()
    uri = list_checkpoints(URI)[0].uri
    for kinds in ((503,), ("reset",)):
        hub.forget()
        hub.faults = Faults(share=1.0, kinds=kinds)
        with pytest.raises(OSError, match="cannot be reached"):
            place_of(uri).read(uri, "model.safetensors", 0, 5)
        assert len(hub.requests) == retrying.ATTEMPTS


def test_a_limit_of_requests_is_waited_for_as_the_hub_states(hub, run, caplog):
    hub.add_run("owner/name", run)
    hub.per_window, hub.window = 3, 1.0
    began = time.monotonic()
    assert len(list_checkpoints(URI)) == 3
    assert time.monotonic() - began > 1
    # No request is repeated before the time that the Hub stated.
    assert len(hub.requests) < 3 * 5


@pytest.mark.parametrize(
    ("status", "headers", "seconds"),
    [(429, {"RateLimit": '"api";r=0;t=55'}, 56), (429, {"ratelimit": '"api";r=9;t=55'}, 0),
     (503, {"Retry-After": "7"}, 8), (429, {"Retry-After": "99999"}, 300), (429, {}, 0),
     (429, {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}, 0), (500, {"Retry-After": "7"}, 0),
     (429, {"Retry-After": "-3"}, 0), (429, {"RateLimit": '"api";r=0;t=0'}, 0)],
)  # fmt: skip
def test_the_wait_that_a_server_states_is_bounded(status, headers, seconds, monkeypatch):
    waited: list[float] = []
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(time, "sleep", waited.append)
    monkeypatch.setattr(retrying, "ATTEMPTS", 2)

    class Response:
        def __init__(self) -> None:
            self.status_code, self.headers = status, headers

    class HttpError(Exception):
        response = Response()

    def fail() -> None:
        raise HttpError

    with pytest.raises(HttpError):
        retrying.persistently(fail)
    assert waited == [seconds]


def test_a_gated_repository_is_listed_and_its_files_need_a_token(hub, run, monkeypatch):
    repository: Repository = hub.add_run("owner/name", run)
    repository.is_gated = True
    uri = list_checkpoints(URI)[0].uri
    for token in (None, "hf_of_another_user"):
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(InputError, match=r"is gated: accept its terms .* set HF_TOKEN"):
            read_config(uri)
    monkeypatch.setenv("HF_TOKEN", hub.granted)
    assert read_config(uri) == CONFIG


@pytest.mark.parametrize("token", [None, "hf_of_a_user"])
def test_a_repository_that_does_not_exist_is_said_with_what_to_do(hub, token, monkeypatch):
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(InputError, match=r"no such repository.*check the name, or log in"):
        list_checkpoints("hf://owner/nobody")
    assert len(hub.requests) == 1
