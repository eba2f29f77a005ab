"""`ontogeny init`: what it prints, and the file that the next command takes as it is."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app


def run(*arguments: str, code: int = 0) -> tuple[str, str]:
    """Return what a command prints on stdout and on stderr."""
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


@pytest.fixture
def folder(make_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder with a run that holds a folder without weights."""
    made = make_run(name="my-model")
    (made / "iter_0001000").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_file_is_analysed_as_it_is(folder: Path) -> None:
    said, _ = run("init", "my-model")
    assert "4 checkpoints: step 0, 1, 2 and 4." in said
    assert "guessed: no file of the run names a BOS token" in said
    assert said.splitlines()[-1] == "Next: ontogeny analyze my-model.yaml --dry-run"
    run("analyze", "my-model.yaml", "--dry-run")
    analysed, _ = run("analyze", "my-model.yaml", "--serial", "--json")
    assert json.loads(analysed)["computed"] == [0, 1, 2, 4]
    assert (folder / "my-model.zarr").is_dir()


def test_json_names_what_was_seen_and_left_out(folder: Path) -> None:
    said, _ = run("init", "my-model", "--output", "made.yaml", "--json")
    found = json.loads(said)
    assert found["file"] == "made.yaml"
    assert found["analysis"]["store"] == "made.zarr"
    assert [one["name"] for one in found["not_listed"]] == ["iter_0001000"]
    assert len(found["guessed"]) == 3


def test_bad_requests_are_sentences_and_write_nothing(folder: Path) -> None:
    (folder / "my-model.yaml").write_text("mine")
    for arguments, sentence in {
        ("my-model",): "my-model.yaml: exists already, and is not overwritten",
        ("absent",): "absent: ",
        ("my-model", "--output", "no/made.yaml"): "no: is no folder",
        ("my-model", "--output", "a.yaml", "--text", "absent.txt"): "absent.txt: ",
        ("my-model", "--output", "a.yaml", "--tokenizer", "t"): "give --text too",
        ("my-model", "--output", "a.yaml", "--model", "act_fn"): "expected NAME=VALUE",
    }.items():
        _, error = run("init", *arguments, code=2)
        assert sentence in error and len(error.splitlines()) == 1, error
    assert (folder / "my-model.yaml").read_text() == "mine"
    assert {one.name for one in folder.iterdir()} == {"my-model", "my-model.yaml"}
