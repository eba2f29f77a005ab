"""The user's secret and Prefect's folder: made once, for this user only."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flows.prefect_server.records import prefect_home, protect_records
from flows.prefect_server.secret import keyed_digest, server_secret
from pipeline.errors import InputError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.delenv("PREFECT_SERVER_API_AUTH_STRING", raising=False)
    return tmp_path / "prefect"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_secret_is_made_once(home: Path) -> None:
    before = os.umask(0)
    try:
        with ThreadPoolExecutor(8) as threads:
            made = set(threads.map(lambda _: server_secret(), range(32)))
    finally:
        os.umask(before)
    assert made == {server_secret()} and len(made.pop()) > 40
    assert [file.name for file in home.iterdir()] == ["ontogeny-secret"]
    assert (mode_of(home), mode_of(home / "ontogeny-secret")) == (0o700, 0o600)


def test_a_string_of_the_users_settings_takes_precedence(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "me:mine")
    assert server_secret() == "me:mine" and not home.exists()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o602])
def test_a_secret_that_others_may_know_is_refused(home: Path, mode: int) -> None:
    server_secret()
    (home / "ontogeny-secret").chmod(mode)
    with pytest.raises(InputError, match=rf"ontogeny-secret: .*mode {mode:o}, expected 600\): rem"):
        server_secret()


def test_a_damaged_secret_or_a_link_is_refused(home: Path, tmp_path: Path) -> None:
    server_secret()
    file = home / "ontogeny-secret"
    for content in (b"", b"short", b"\xff" * 40, b"two\nlines, that are long enough"):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"holds no secret.*remove it"):
            server_secret()
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"cannot be read.*remove it"):
        server_secret()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_secret_of_another_user_is_refused(home: Path) -> None:
    server_secret()
    os.chown(home / "ontogeny-secret", 12345, -1)
    with pytest.raises(InputError, match="belongs to user 12345, not to you"):
        server_secret()


def test_a_name_that_needs_the_secret(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = keyed_digest("/a")
    assert name == keyed_digest("/a") != keyed_digest("/b")
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "another")
    assert keyed_digest("/a") != name


def test_records_of_earlier_runs_are_closed_to_others(home: Path) -> None:
    home.mkdir(mode=0o777)
    home.chmod(0o777)
    for name in ("prefect.db", "prefect.db-wal", "ontogeny-ui.json"):
        (home / name).touch()
        (home / name).chmod(0o666)
    protect_records()
    assert {mode_of(path) & 0o077 for path in (home, *home.iterdir())} == {0}


def test_a_shared_folder_keeps_its_mode(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir()
    (home / "prefect.db").touch(mode=0o644)
    home.chmod(0o1777)
    protect_records()
    assert (mode_of(home), mode_of(home / "prefect.db")) == (0o777 | stat.S_ISVTX, 0o600)
    home.chmod(0o755)
    monkeypatch.setenv("HOME", str(home))
    protect_records()
    assert mode_of(home) == 0o755


def test_the_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_HOME", "~/kept")
    assert prefect_home() == tmp_path / "kept"
    monkeypatch.delenv("PREFECT_HOME")
    assert prefect_home() == tmp_path / ".prefect"
