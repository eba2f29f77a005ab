"""`ontogeny transitions`, over stores with planted changes."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from flows.cli import app
from pipeline.query.side_by_side import sets_of
from tests.flows.planted_store import TOKENS, Planted, ontogeny


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a store in which head 1 rises, and the losses fall, at step 1,000."""
    return Planted(means=False).write(tmp_path_factory.mktemp("answers") / "run.zarr")


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a store in which head 0 rises, and the losses fall, at step 3,000."""
    run = Planted(middle=3000, head=0, means=False)
    return run.write(tmp_path_factory.mktemp("later") / "later.zarr")


def test_transitions_are_printed_counted_and_written(store: str, tmp_path: Path) -> None:
    printed = ontogeny("transitions", store, "--output", str(tmp_path / "table.csv"))
    assert re.search(r"head_scores/induction L0H1 +\S+ \(\S+ to \S+\) +\S+, \S+ +\+0\.", printed)
    assert "1 change suddenly" in printed
    assert (
        "series over steps: token_loss/loss"
        in CliRunner().invoke(app, ["transitions", store]).stderr
    )
    (row,) = csv.DictReader((tmp_path / "table.csv").open())
    assert float(row["midpoint_low"]) < 1000 < float(row["midpoint_high"])
    assert float(row["amplitude"]) == pytest.approx(0.8, abs=0.05)
    assert float(row["excess_after"]) == pytest.approx(0.77, abs=0.03)
    assert float(row["midpoint_tokens"]) == pytest.approx(100 * float(row["midpoint"]))


def test_small_transitions_are_counted_where_they_are_left_out(store: str) -> None:
    printed = ontogeny("transitions", store, "--smallest", "0.9")
    assert "Of those that change suddenly, 1 only by less than 0.9." in printed
    assert "L0H1" not in printed


def test_transitions_as_json(store: str) -> None:
    found = json.loads(ontogeny("transitions", store, "--json"))
    assert found["shapes"]["sudden"] == 1 and found["left_out"] == ["token_loss/loss"]
    assert [row["head"] for row in found["transitions"]] == [1]


def test_runs_side_by_side_match_heads_by_role(store: str, later: str) -> None:
    found = json.loads(ontogeny("transitions", store, later, "--axis", "tokens", "--json"))
    assert found["axis"] == "tokens" and "all runs given" in found["spread"]
    first = [one for one in found["events"] if one["change"] == "first head"]
    assert {(one["run"], one["head_of"]) for one in first} == {("run", 1), ("later", 0)}
    at = {one["run"]: one["place"] for one in first}
    assert at == pytest.approx({"run": 100_000, "later": 300_000}, rel=0.05)
    (spread,) = [one for one in found["over_runs"] if one["change"] == "first head"]
    assert (spread["stored"], spread["having"]) == (2, 2)
    assert spread["deviation"] == pytest.approx(np.log10(3) / np.sqrt(2), abs=0.02)
    printed = ontogeny("transitions", store, later, "--axis", "steps")
    assert "head_scores/induction, first head (steps, 90% interval)" in printed
    assert "2 of 2 runs, median 1,9" in printed or "2 of 2 runs, median 2,0" in printed
    assert "matched by role" in printed


def test_runs_side_by_side_since_an_origin(store: str, later: str, tmp_path: Path) -> None:
    condition = "head_scores/induction - induction_null > 0.3"
    options = ("--origin", condition, "--output", str(tmp_path / "events.csv"))
    printed = ontogeny("transitions", store, later, *options)
    assert "(steps since origin, 90% interval)" in printed and "lag " in printed
    rows = [r for r in csv.DictReader((tmp_path / "events.csv").open()) if r["change"] == "rise"]
    # The condition holds from 41% of the rise on; saved steps are 0.085 decades apart.
    assert len(rows) == 2 and all(abs(float(row["decades"])) < 0.1 for row in rows)
    given = ("--origin", "run=1000", "--origin", "later=1500", "--json")
    found = json.loads(ontogeny("transitions", store, later, *given))
    lags = {one["run"]: one["decades"] for one in found["events"] if one["change"] == "rise"}
    assert lags == pytest.approx({"run": 0, "later": np.log10(2)}, abs=0.02)


def test_runs_that_were_not_computed_alike_are_named(store: str, tmp_path: Path) -> None:
    other = Planted(tokens=TOKENS[::-1], means=False).write(tmp_path / "other.zarr")
    printed = ontogeny("transitions", store, other, "--axis", "steps")
    assert "Not computed alike in all runs: token_loss (input)." in printed


def test_unknown_tokens_and_origins_are_refused(store: str, tmp_path: Path) -> None:
    unknown = Planted(counted=False, means=False).write(tmp_path / "unknown.zarr")
    refused = {
        ("--axis", "tokens"): "run 'unknown': the tokens seen are not known",
        ("--axis", "token"): "tokens",
        ("--axis", "origin"): "origin",
        ("--origin", "run=1000"): "no origin is given for the run 'unknown'",
    }
    for options, message in refused.items():
        result = CliRunner().invoke(app, ["transitions", store, unknown, *options])
        assert result.exit_code == 2 and message in result.output, result.output


def test_runs_of_one_set_differ_by_seed_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def sets(*settings: dict[str, object]) -> tuple[list[str], str]:
        monkeypatch.setattr(
            "pipeline.query.side_by_side.settings_that_differ", lambda runs: list(settings)
        )
        found, sentence = sets_of({str(i): xr.DataTree() for i in range(len(settings))})
        return list(found.values()), sentence

    shares = [{"train_share": share, "seed": seed} for share in (0.3, 0.5) for seed in (0, 1)]
    assert sets(*shares)[0] == ["train_share 0.3"] * 2 + ["train_share 0.5"] * 2
    assert sets({"seed": 0}, {"seed": 1})[0] == ["all runs"] * 2
    labels, sentence = sets({"train_share": 0.3, "seed": 0}, {"train_share": 0.5, "seed": 1})
    assert labels == ["all runs"] * 2 and "no two differ by seed only" in sentence


def test_together_is_printed_and_as_json(later: str) -> None:
    printed = ontogeny("transitions", later, "--together")
    assert "are induction heads at the end" in printed
    found = json.loads(ontogeny("transitions", later, "--together", "--json"))
    assert found.keys() == {"runs", "induction_share"} and "later" in found["runs"]
    refused = CliRunner().invoke(app, ["transitions", later, "--together", "--axis", "steps"])
    assert refused.exit_code == 2 and "--together takes no --axis" in refused.output


@pytest.mark.parametrize("command", ["transitions", "losses"])
def test_a_dask_cluster_that_is_not_there_is_refused(store: str, command: str) -> None:
    result = CliRunner().invoke(app, [command, store, "--dask-address", "nowhere"])
    assert result.exit_code == 2 and "nowhere: no Dask scheduler answers" in result.output
