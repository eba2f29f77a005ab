"""The command line: JSON output, and one sentence for each invalid request."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from flows.cli import app

MakeAnalysis = Callable[..., Any]


def ontogeny(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def answer(*arguments: str | Path) -> Any:
    result = ontogeny(*arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(*arguments: str | Path) -> str:
    """Run a command that ends with exit code 2; return its one sentence."""
    result = ontogeny(*arguments)
    assert result.exit_code == 2, result.output
    (sentence,) = errors_in(result.stderr)
    assert result.stdout == ""
    return sentence


def errors_in(stderr: str) -> list[str]:
    """Return the lines that do not say what a run is doing."""
    return [line for line in stderr.splitlines() if not line.startswith("analyse: ")]


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# What is wrong with an analysis, and what its sentence must say.
TABLE = {"kind": "table", "operation": "add", "train_share": 0.4, "split_seed": 0}
BAD_ANALYSES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "unknown key": ({"checkpoint": "x"}, ["'checkpoint'", "did you mean 'checkpoints'?"]),
    "unknown worker key": ({"workers": {"cpu": 1}}, ["workers.cpu", "did you mean 'cpus'?"]),
    "wrong type": ({"workers": {"count": "two"}}, ["workers.count", "integer", "'two'"]),
    "missing folder": ({"checkpoints": "nowhere"}, ["nowhere", "no such folder"]),
    "empty folder": ({"checkpoints": "empty"}, ["empty", "no finished checkpoint"]),
    "no config at all": ({"checkpoints": "bare"}, ["step-1/config.json", "is missing"]),
    "unknown measure": ({"measures": ["head_score"]}, ["did you mean 'head_scores'?"]),
    "unknown parameter": (
        {"measures": {"token_loss": {"earlytoken": 3}}}, ["did you mean 'early_token'?"],
    ),
    "unknown input": ({"measures": ["token_loss.texts"]}, ["did you mean 'text'?"]),
    "an input on a measure of weights": (
        {"measures": ["weight_norm.text"]}, ["weight_norm.text", "weights only"],
    ),
    "longer than the context": (
        {"measures": ["head_scores"],
         "inputs": {"repeated": {"kind": "repeated", "block_length": 20}}},
        ["'repeated'", "40 tokens", "context is 32"],
    ),
    "beyond the vocabulary": (
        {"measures": {"token_loss": {"early_token": 4, "late_token": 30}},
         "inputs": {"text": {"kind": "array", "path": "large.npy", "length": 32}}},
        ["'text'", "token id 99", "32 ids"],
    ),
    "no such token": (
        {"measures": {"token_loss": {"late_token": 400}}}, ["late_token", "32 tokens"],
    ),
    "a p that does not fit": (
        {"measures": ["modular_addition"], "inputs": {"table": {**TABLE, "p": 59}}}, ["59", "32"],
    ),
    "a p that is not said": (
        {"measures": ["modular_addition"], "inputs": {"table": TABLE}},
        ["'table'", "p not given"],
    ),
}  # fmt: skip


@pytest.fixture
def bad_folders(organisms: Path, tmp_path: Path) -> Path:
    """Write a folder without checkpoints, one without a config, and too large token ids."""
    from pipeline.models.organism import OrganismForCausalLM
    from pipeline.models.organism_config import OrganismConfig

    (tmp_path / "empty").mkdir()
    config = OrganismConfig(vocab_size=32, hidden_size=32, num_attention_heads=2)
    OrganismForCausalLM(config).save_pretrained(tmp_path / "bare/step-1")
    (tmp_path / "bare/step-1/config.json").unlink()
    np.save(tmp_path / "large.npy", np.full((64, 32), 99))
    return tmp_path


@pytest.mark.parametrize("case", BAD_ANALYSES)
def test_a_bad_analysis_gets_one_sentence_and_nothing_is_written(
    case: str, make_analysis: MakeAnalysis, bad_folders: Path
) -> None:
    changes, says = BAD_ANALYSES[case]
    config = bad_folders / "analysis.yaml"
    config.write_text(json.dumps(make_analysis().model_dump(mode="json") | changes))
    before = contents(bad_folders)
    sentence = refused("analyze", config, "--serial")
    for part in says:
        assert part in sentence
    assert contents(bad_folders) == before


def test_a_store_of_other_checkpoints_is_left_as_it_is(
    make_analysis: MakeAnalysis, tmp_path: Path, make_run: Callable[..., Path]
) -> None:
    config = tmp_path / "analysis.yaml"
    analysis = make_analysis(measures=["weight_norm"], inputs={})
    config.write_text(json.dumps(analysis.model_dump(mode="json")))
    assert ontogeny("analyze", config, "--serial").exit_code == 0
    other = analysis.model_copy(update={"checkpoints": str(make_run(steps=(0,)))})
    config.write_text(json.dumps(other.model_dump(mode="json")))
    before = contents(Path(analysis.store))
    assert "the store is of the run at" in refused("analyze", config, "--serial")
    assert contents(Path(analysis.store)) == before


@pytest.mark.usefixtures("server")
def test_the_flow_refuses_in_the_same_sentence(make_analysis: MakeAnalysis, tmp_path: Path) -> None:
    config = tmp_path / "analysis.yaml"
    analysis = make_analysis(checkpoints=str(tmp_path / "nowhere"))
    config.write_text(json.dumps(analysis.model_dump(mode="json")))
    before = contents(tmp_path)
    by_flow = ontogeny("analyze", config)
    assert by_flow.exit_code == 2
    assert by_flow.stderr.splitlines()[-1] == refused("analyze", config, "--serial")
    assert contents(tmp_path) == before


STORE = "STORE"
BAD_COMMANDS: dict[str, tuple[list[str], list[str]]] = {
    "analyze: no such file": (["analyze", "absent.yaml"], ["absent.yaml", "neither such a file"]),
    "analyze: a preset's name, nearly": (["analyze", "inducton"], ["did you mean 'induction'?"]),
    "train: no such preset": (["train", "inducton"], ["did you mean 'induction'?"]),
    "watch: never": (["watch", "induction", "--every", "inf"], ["--every inf: expected seconds"]),
    "checkpoints: no such folder": (["checkpoints", "nowhere"], ["nowhere", "no such folder"]),
    "query: no store": (["query", "nowhere.zarr", "a/b"], ["nowhere.zarr", "no store"]),
    "query: unknown group": (["query", STORE, "weight_nrm/x"], ["weight_norm/"]),
    "query: unknown variable": (["query", STORE, "token_loss/men"], ["did you mean 'mean'?"]),
    "query: absent step": (["query", STORE, "token_loss/mean", "--step", "3"], ["step", "0, 1, 2"]),
    "query: no such dimension": (["query", STORE, "token_loss/mean", "--layer", "0"], ["'layer'"]),
    "query: not a label": (
        ["query", STORE, "token_loss/mean", "--at", "frequency"], ["DIMENSION=LABELS"],
    ),
    "query: not a condition": (
        ["query", STORE, "token_loss/mean", "--where", "mean = 3"], ["cannot be read"],
    ),
    "query: an unknown column": (
        ["query", STORE, "token_loss/mean", "--where", "men > 3"], ["did you mean 'mean'?"],
    ),
    "query: a mean over nothing": (
        ["query", STORE, "token_loss/mean", "--mean", "head"], ["average over 'head'"],
    ),
    "query: no Dask there": (
        ["query", STORE, "token_loss/mean", "--dask-address", "127.0.0.1:1"], ["Dask scheduler"],
    ),
    "query: one run twice": (
        ["query", STORE, STORE, "token_loss/mean"], ["is given twice: give each store once"],
    ),
    "store verify: no store": (["store", "verify", "nowhere.zarr"], ["nowhere.zarr", "no store"]),
    "store gc: no store": (["store", "gc", "nowhere.zarr"], ["nowhere.zarr", "no store"]),
    "query: unknown format": (
        ["query", STORE, "token_loss/mean", "--format", "xls"], ["'xls'"],
    ),
    "report: no store": (["report", "nowhere.zarr"], ["nowhere.zarr", "no store"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_COMMANDS)
def test_a_bad_command_gets_one_sentence(
    case: str,
    undisturbed: Any,
    organisms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments, says = BAD_COMMANDS[case]
    monkeypatch.chdir(tmp_path)
    store = str(organisms / "undisturbed.zarr")
    sentence = refused(*(store if argument == STORE else argument for argument in arguments))
    for part in says:
        assert part in sentence
    assert contents(tmp_path) == {}


def test_query_gives_the_numbers_of_the_store(
    undisturbed: Any, organisms: Path, tmp_path: Path
) -> None:
    store = organisms / "undisturbed.zarr"
    mean = undisturbed["token_loss"]["mean"]
    rows = answer("query", store, "token_loss/mean", "--step", "2:16", "--format", "json")
    assert [row["step"] for row in rows] == [2, 4, 8, 16]
    np.testing.assert_allclose([row["mean"] for row in rows], mean.sel(step=slice(2, 16)))

    induction = undisturbed["head_scores"]["induction"]
    output = tmp_path / "scores.parquet"
    arguments = ("--layer", "0", "--head", "1,3", "--output", output)
    assert ontogeny("query", store, "head_scores/induction", *arguments).exit_code == 0
    frame = pd.read_parquet(output)
    assert len(frame) == len(induction.step) * 2
    one = frame[(frame["step"] == 8) & (frame["head"] == 3)]["induction"].item()
    np.testing.assert_allclose(one, induction.sel(step=8, layer=0, head=3))

    csv = ontogeny("query", store, "modular_addition/embedding_norm", "--at", "frequency=7",
                   "--step", "256", "--format", "csv")  # fmt: skip
    last = csv.stdout.strip().splitlines()[-1]
    expected = float(undisturbed["modular_addition"].embedding_norm.sel(step=256, frequency=7))
    np.testing.assert_allclose(float(last.split(",")[-1]), expected)


def test_checkpoints_are_listed_in_order(organisms: Path) -> None:
    listed = answer("checkpoints", organisms / "run", "--json")["checkpoints"]
    assert [entry["step"] for entry in listed] == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert listed[3]["uri"] == str(organisms / "run" / "step-4")


def test_measures_say_what_they_are() -> None:
    described = {measure["name"]: measure for measure in answer("measures", "--json")}
    assert described["token_loss"]["parameters"] == {"early_token": 50, "late_token": 500}
    induction = next(v for v in described["head_scores"]["variables"] if v["name"] == "induction")
    assert induction["dims"] == ["step", "layer", "head"]
    printed = ontogeny("measures", "head_scores").stdout
    assert re.search(r"induction \(step, layer, head\) \[1\]", printed)
    assert re.search(r"cost: [\d.]+ forward passes", printed)
    assert "previous_token`  p[i, i-1]" in printed and "ov_copying" not in printed
    assert "did you mean 'head_scores'" in refused("measures", "head_score")
    assert "markdown" in refused("measures", "--format", "html")


def test_every_measure_has_a_cost_and_the_page_of_measures_is_up_to_date() -> None:
    assert [m["name"] for m in answer("measures", "--json") if m["cost"] is None] == []
    page = Path(__file__).parents[2] / "docs" / "measures.md"
    said = "run: ontogeny measures --format markdown > docs/measures.md"
    assert page.read_text() == ontogeny("measures", "--format", "markdown").stdout, said


def test_train_writes_checkpoints_and_says_where(tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(
        "name: small\noutput: elsewhere\nsteps: 4\nbatch_size: 4\n"
        "task: {kind: repeated_substrings, vocabulary: 16, context: 16, shortest: 2, longest: 4}\n"
        "model: {hidden_size: 16, num_attention_heads: 2}\noptimizer: {learning_rate: 1.0e-3}\n"
    )
    result = ontogeny("train", config, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(tmp_path / "out")
    listed = answer("checkpoints", tmp_path / "out", "--json")["checkpoints"]
    assert [entry["step"] for entry in listed] == [0, 1, 2, 4]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("eps=!!int abc", "--model eps at line 1, column 1: is not valid YAML"),
        ("eps=&a [*a]", "an alias stands within"),
        ("eps=true", "eps: input should be a valid number, found True"),
        ("eps=.inf", "eps: input should be a finite number"),
        ("act_fn=[1]", "act_fn: input should be a valid string, found [1]"),
    ],
)
def test_a_faulty_field_of_a_model_is_one_sentence(value: str, says: str, tmp_path: Path) -> None:
    assert says in refused("checkpoints", tmp_path, "--model", value)
