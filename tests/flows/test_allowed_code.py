"""Code runs because a file at this machine allows it, never because of a flow's parameter."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from flows.allowed_code import TRUSTED, code_of, code_of_trusted_files, refusal
from flows.analyze import analyze
from flows.reanalyze import reanalyze
from pipeline.config import Analysis
from pipeline.errors import InputError

EVIL = 'from pathlib import Path\nPath(__file__).with_name("RAN").touch()\n'


def analysis(folder: Path, **changes: Any) -> Analysis:
    content = {"checkpoints": str(folder / "run"), "store": str(folder / "s.zarr")}
    return Analysis.model_validate({**content, "measures": {"weight_norm": {}}, **changes})


@pytest.fixture(autouse=True)
def no_trusted_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TRUSTED, raising=False)


@pytest.fixture
def evil(tmp_path: Path) -> str:
    (tmp_path / "evil.py").write_text(EVIL)
    return f"{tmp_path}/evil.py"


def test_the_code_of_an_analysis(tmp_path: Path) -> None:
    assert code_of(analysis(tmp_path)) == frozenset()
    measures = {"token_loss.text": {}, "/m/a.py:A": {}, "/m/a.py:A.text": {}, "some.module:B": {}}
    assert code_of(analysis(tmp_path, measures=measures, trust_remote_code=True)) == {
        f"the code of {tmp_path}/run", "the measure /m/a.py:A", "the measure some.module:B",
    }  # fmt: skip


def test_a_parameter_allows_no_code(tmp_path: Path, evil: str) -> None:
    for changes in (
        {"trust_remote_code": True},
        {"measures": {f"{evil}:Evil": {}}},
        {"measures": {f"{evil}:Evil.text": {}}},
        {"measures": {"this:Evil": {}}},
    ):
        state = analyze.fn(analysis(tmp_path, **changes))
        assert state.is_failed()
        assert str(state.message).startswith("refused: the parameters ask to run the ")
    assert not (tmp_path / "RAN").exists() and not (tmp_path / "s.zarr").exists()


def test_the_path_of_a_file_as_a_parameter_allows_no_code(tmp_path: Path, evil: str) -> None:
    config = tmp_path / "a.yaml"
    config.write_text(json.dumps(analysis(tmp_path, measures={f"{evil}:E": {}}).model_dump()))
    state = reanalyze.fn([str(config)])
    assert state.is_failed() and str(state.message).startswith("refused: ")
    assert not (tmp_path / "RAN").exists()


def test_a_listed_file_allows_its_own_code_only(
    tmp_path: Path, evil: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = analysis(tmp_path, trust_remote_code=True, measures={f"{evil}:E": {}})
    config = tmp_path / "a.yaml"
    config.write_text(json.dumps(mine.model_dump()))
    monkeypatch.setenv(TRUSTED, f"{config}{os.pathsep}")
    allowed = code_of_trusted_files()
    assert refusal(mine, allowed) is None
    for changes in ({"checkpoints": "s3://other/run"}, {"measures": {f"{evil}:Other": {}}}):
        assert refusal(mine.model_copy(update=changes), allowed)
    assert refusal(mine, frozenset())


@pytest.mark.parametrize("place", ["a.yaml", "."])
def test_a_file_that_others_can_change_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "a.yaml").write_text(json.dumps(analysis(tmp_path).model_dump()))
    monkeypatch.setenv(TRUSTED, str(tmp_path / "a.yaml"))
    assert code_of_trusted_files() == frozenset()
    (tmp_path / place).chmod(0o777)
    with pytest.raises(
        InputError, match=rf"{TRUSTED}: .* can be changed by other users \(mode 777"
    ):
        code_of_trusted_files()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_file_of_another_user_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.yaml").write_text(json.dumps(analysis(tmp_path).model_dump()))
    monkeypatch.setenv(TRUSTED, str(tmp_path / "a.yaml"))
    os.chown(tmp_path / "a.yaml", 12345, -1)
    with pytest.raises(InputError, match="belongs to user 12345"):
        code_of_trusted_files()
    monkeypatch.setenv(TRUSTED, str(tmp_path / "absent.yaml"))
    with pytest.raises(InputError, match=r"absent\.yaml: cannot be read"):
        code_of_trusted_files()
