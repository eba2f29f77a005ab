"""No command takes an address with a secret, or repeats one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from flows.cli import app
from flows.log_text import clean_records
from flows.submit import kuberay_manifest, ray_job_script
from pipeline import Analysis, InputError, list_checkpoints, open_run, write_report
from pipeline.store.objects import Objects

ADDRESSES = ["s3://KEY:hushhush@bucket/x", "https://h/x?X-Amz-Signature=hushhush"]
GOOD = {"checkpoints": "run", "store": "s", "measures": {"weight_norm": {}}}


def commands() -> Iterator[list[str]]:
    """Yield the words of every command."""
    group = get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        for inner in getattr(command, "commands", {"": None}):
            yield [name, inner] if inner else [name]


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_no_command_takes_a_secret_or_repeats_it(words: list[str]) -> None:
    for arguments in ([ADDRESSES[0]], [ADDRESSES[1], "--json"], [f"--output={ADDRESSES[0]}"]):
        result = CliRunner().invoke(app, [*words, *arguments])
        assert result.exit_code == 2, result.output
        assert "hushhush" not in result.output and "holds" in result.stderr
        assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize(
    "changes",
    [
        {"checkpoints": "ADDRESS"},
        {"store": "ADDRESS"},
        {"inputs": {"a": {"kind": "text", "path": "ADDRESS"}}},
        {"inputs": {"a": {"kind": "text", "path": "a", "tokenizer": "ADDRESS"}}},
        {"inputs": {"a": {"kind": "array", "path": "ADDRESS"}}},
        {"measures": {"ADDRESS/m.py:A": {}}},
        {"measures": {"weight_norm": {"x": ["ADDRESS"]}}},
        {"model": {"act_fn": "ADDRESS"}},
        {"ADDRESS": 1, "unknown": "ADDRESS"},
        {"workers": {"count": "ADDRESS"}},
    ],
    ids=str,
)
def test_an_analysis_with_a_secret_is_refused_without_it(
    changes: dict[str, object], address: str, tmp_path: Path
) -> None:
    """Refuse it from a file and from Python; neither message repeats it."""
    text = yaml.safe_dump({**GOOD, **changes}).replace("ADDRESS", address)
    file = tmp_path / "a.yaml"
    file.write_text(text)
    result = CliRunner().invoke(app, ["analyze", str(file), "--serial", "--json"])
    assert result.exit_code == 2 and "the address holds" in result.stderr, result.output
    with pytest.raises(ValueError) as refused:
        Analysis.model_validate(yaml.safe_load(text))
    assert "hushhush" not in f"{result.output}{refused.value}{refused.value!r}"


@pytest.mark.parametrize("address", ADDRESSES)
def test_the_functions_of_python_refuse_a_secret_too(address: str, tmp_path: Path) -> None:
    for function in (
        list_checkpoints, open_run, Objects, lambda uri: write_report([uri], tmp_path),
    ):  # fmt: skip
        with pytest.raises(InputError, match="the address holds") as refused:
            function(address)
        assert "hushhush" not in str(refused.value)


def test_a_secret_in_the_address_of_a_server_is_no_part_of_a_script(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://user:hushhush@h:4200/api")
    one = Analysis.model_validate({**GOOD, "checkpoints": "s3://a/b", "store": "s3://a/c"})
    for make in (lambda: ray_job_script(one, "http://h"), lambda: kuberay_manifest(one, "image")):
        with pytest.raises(InputError, match=r"PREFECT_API_URL: the address holds") as refused:
            make()
        assert "hushhush" not in str(refused.value)
    with pytest.raises(InputError, match="--address: the address holds"):
        ray_job_script(one, "http://user:hushhush@h")


def test_log_records_hold_no_secret_and_no_raw_character(caplog: pytest.LogCaptureFixture) -> None:
    """Log a message and a traceback as other libraries do; uvicorn's records stay as they are."""
    import logging

    clean_records()
    log = logging.getLogger("some.library")
    try:
        raise OSError("GET https://h/x?X-Amz-Signature=hushhush failed\x1b[31m")
    except OSError:
        log.exception("could not read %s", "s3://K:hushhush@b/\x1b]0;x\x07")
    logging.getLogger("uvicorn.access").warning("%s", "raw")
    text = caplog.text
    assert "hushhush" not in text and "\x1b" not in text and "\\x1b]0;x" in text
    assert "GET https://h/x?X-Amz-Signature=[hidden] failed" in text
    assert caplog.records[-1].args == ("raw",)


def test_the_records_of_a_worker_are_made_as_others_are() -> None:
    """Make a record of a dictionary, as `flows.worker_logs` does: it has no name at first."""
    import logging

    clean_records()
    assert logging.makeLogRecord({"name": "pipeline", "msg": "computed"}).name == "pipeline"
