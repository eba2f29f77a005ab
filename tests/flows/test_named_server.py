"""A server that Prefect's settings name is used: no other one is started for the run."""

from pathlib import Path

import pytest

from flows.server import may_name_server

URL = "http://127.0.0.1:1/api"
ACTIVE = f'active = "team"\n[profiles.team]\nPREFECT_API_URL = "{URL}"\n'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let Prefect's settings be those of an empty folder, which is the working folder too."""
    for name in ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("profiles.toml", ACTIVE, True),
        ("profiles.toml", ACTIVE.replace('"team"', '"other"'), False),
        ("profiles.toml", 'active = "team"\n[profiles.team]\n', False),
        (".env", f"PREFECT_API_URL={URL}\n", True),
        ("prefect.toml", f'[api]\nurl = "{URL}"\n', True),
        ("pyproject.toml", f'[tool.prefect.api]\nurl = "{URL}"\n', True),
        ("pyproject.toml", '[project]\nname = "mine"\n', False),
    ],
)
def test_a_server_is_named_as_prefect_reads_it(
    folder: Path, file: str, content: str, named: bool
) -> None:
    from prefect.settings.models.root import Settings

    (folder / file).write_text(content)
    assert Settings().api.url == (URL if named else None)
    assert may_name_server() is named


@pytest.mark.parametrize("content", ["", "active = ", "profiles = 3\nactive = 'a'", "\x00"])
def test_no_server_is_named_by_a_damaged_profile(folder: Path, content: str) -> None:
    (folder / "profiles.toml").write_text(content)
    assert not may_name_server()


def test_a_server_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not may_name_server()
    monkeypatch.setenv("PREFECT_API_URL", URL)
    assert may_name_server()
