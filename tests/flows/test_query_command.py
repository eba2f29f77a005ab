"""`ontogeny query` without a variable, and of several stores that differ elsewhere."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from flows.cli.app import ORDER
from pipeline import InputError, open_runs
from pipeline.query.contents import notes
from pipeline.schema import Variable
from pipeline.store import Row, Store, Template
from pipeline.store.fingerprint import digest_of, fingerprint, variant_id
from pipeline.store.writer import Writer
from tests.flows.planted_store import STEPS, Planted
from tests.flows.test_cli import answer, ontogeny, refused
from tests.pipeline.store.synthetic import show

SHOWN = len(STEPS)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores")
    Planted().write(folder / "a.zarr")
    Planted(seed=1, tokens=np.arange(160).reshape(8, 20)).write(folder / "other-text.zarr")
    return folder


def with_one_group(uri: Path) -> str:
    """Write a store with a variable of one step and without other dimensions."""
    made = Store(str(uri))
    made.create_or_open({"architecture": "small"}, "small")
    norm = Variable("sum_of_squares", ("step",), "1", "A norm.", dtype="float64")
    about = {"version": 1, "input": None, "parameters": {}}
    group = Template("weight_norm", variant_id(measure="weight_norm"), (norm,), {}, about)
    plan = made.require_groups([group], plan=True).number
    weights = digest_of(7)
    row = Row(7, fingerprint(group.variant, weights), weights, "step7", None)
    Writer(made, plan, [group]).write([("weight_norm", row, {"sum_of_squares": np.array(2.0)})])
    show(made, group)
    return str(uri)


def test_query_lists_what_a_store_holds(planted: Path) -> None:
    rows = answer("query", planted / "a.zarr", "--json")
    assert [(row["group"], row["variable"]) for row in rows] == [
        ("head_scores", "induction"),
        ("head_scores", "induction_null"),
        ("token_loss", "in_context_score"),
        ("token_loss", "loss"),
        ("token_loss", "mean"),
    ]
    assert rows[3] == {
        "group": "token_loss", "variable": "loss", "dimensions": "sequence 8, position 19",
        "unit": "nats", "steps": SHOWN, "first_step": 1, "last_step": 100_000,
    }  # fmt: skip
    shown = ontogeny("query", planted / "a.zarr").stdout
    line = next(line for line in shown.splitlines() if "token_loss/loss" in line)
    assert line.split("  ")[1:] != []
    assert "sequence 8, position 19" in line
    assert f"{SHOWN}, from 1 to 100000" in line


def test_query_lists_several_stores_by_run(planted: Path, tmp_path: Path) -> None:
    small = with_one_group(tmp_path / "small.zarr")
    rows = answer("query", planted / "a.zarr", small, "weight_norm", "--json")
    assert rows == [{
        "run": "small", "group": "weight_norm", "variable": "sum_of_squares", "dimensions": "",
        "unit": "1", "steps": 1, "first_step": 7, "last_step": 7,
    }]  # fmt: skip


def test_a_folder_of_a_groups_name_is_no_store(
    planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token_loss" / "mean").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    rows = answer("query", planted / "a.zarr", "token_loss/mean", "--step", "1", "--json")
    assert [row["step"] for row in rows] == [1]
    assert len(answer("query", planted / "a.zarr", "token_loss", "--json")) == 3


def test_a_list_is_written_by_suffix(planted: Path, tmp_path: Path) -> None:
    output = tmp_path / "contents.csv"
    assert ontogeny("query", planted / "a.zarr", "--output", output).exit_code == 0
    assert list(pd.read_csv(output)["steps"]) == [SHOWN] * 5


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["head_scors"], ["no group 'head_scors' in a", "did you mean 'head_scores'?"]),
        (["induction"], ["did you mean 'head_scores/induction'?"]),
        (["token_loss/nothing"], ["no 'nothing' in group 'token_loss'", "in_context_score"]),
        (["--step", "3"], ["GROUP/VARIABLE"]),
        (["token_loss", "--mean", "step"], ["GROUP/VARIABLE"]),
        (["--mixed"], ["GROUP/VARIABLE"]),
        (["token_loss", "--align", "tokens_seen"], ["GROUP/VARIABLE"]),
        (["token_loss/mean", "--output", "table.xls"], ["'xls'", "csv, json, parquet"]),
        (["token_loss/mean", "--output", "table"], ["its name says no format", ".csv"]),
    ],
)
def test_a_missing_name_is_named(planted: Path, arguments: list[str], says: list[str]) -> None:
    sentence = refused("query", planted / "a.zarr", *arguments)
    for part in says:
        assert part in sentence


def test_an_empty_store_has_nothing_to_list(tmp_path: Path) -> None:
    Store(str(tmp_path / "empty.zarr")).create_or_open({"architecture": "a"}, "a")
    assert answer("query", tmp_path / "empty.zarr", "--json") == []
    said = ontogeny("query", tmp_path / "empty.zarr").stderr
    assert said.strip() == "note: empty: nothing is stored yet: run its analysis"
    assert "nothing is stored yet" in refused("query", tmp_path / "empty.zarr", "token_loss")


def test_only_the_group_that_is_asked_for_is_compared(planted: Path) -> None:
    stores = [str(planted / "a.zarr"), str(planted / "other-text.zarr")]
    assert "not measured alike" in refused("query", *stores, "token_loss/mean")
    rows = answer("query", *stores, "head_scores/induction", "--step", "1", "--json")
    assert {row["run"] for row in rows} == {"a", "other-text"}
    with pytest.raises(InputError, match="not measured alike"):
        open_runs(stores)
    assert list(open_runs(stores, groups=["head_scores"]).children) == ["head_scores"]


def test_a_run_without_the_group_is_named(planted: Path, tmp_path: Path) -> None:
    small = with_one_group(tmp_path / "small.zarr")
    done = ontogeny("query", planted / "a.zarr", small, "token_loss/mean", "--step", "1", "--json")
    assert {row["run"] for row in json.loads(done.stdout)} == {"a"}
    assert "small has no group 'token_loss': left out" in done.stderr
    assert "no group 'sink' in a, small" in refused("query", planted / "a.zarr", small, "sink/x")


def test_an_error_leaves_no_output(planted: Path, tmp_path: Path) -> None:
    output = tmp_path / "table.csv"
    output.write_text("before")
    refused("query", planted / "a.zarr", "token_loss/mean", "--where", "men > 3",
            "--output", output)  # fmt: skip
    assert output.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_what_a_list_leaves_out_is_said() -> None:
    tree = xr.DataTree.from_dict({"weight_norm": xr.Dataset()})
    assert notes({"run": tree}) == []
    tree.attrs = {"masked": {5: "a copy"}, "not_finite": dict.fromkeys(range(10, 18), "mean")}
    assert notes({"run": tree}) == [
        "run: numbers that are not finite at steps 10, 11, 12, 13, 14, 15 and 2 more",
        "run: the audit masks step 5, not counted here",
    ]
    assert notes({"run": xr.DataTree()}) == ["run: nothing is stored yet: run its analysis"]


def test_the_version_is_printed() -> None:
    assert ontogeny("--version").stdout == "ontogeny 0.1.0\n"


def test_help_lists_every_command_in_order() -> None:
    shown = ontogeny("--help").stdout
    listed = re.findall(r"^│ ([a-z]+)  ", shown, re.M)
    assert listed == list(ORDER)
