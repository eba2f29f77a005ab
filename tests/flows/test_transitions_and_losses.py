"""`ontogeny transitions` and `ontogeny losses`, over a store with planted changes."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from flows.cli import app
from pipeline.query.side_by_side import sets_of
from pipeline.schema import Variable
from pipeline.store import Row, Store, Template
from pipeline.store.fingerprint import digest_of, fingerprint, variant_id
from pipeline.store.writer import Writer
from tests.pipeline.store.synthetic import show

STEPS = np.unique(np.geomspace(1, 100_000, 60).round().astype(int))
TOKENS = np.random.default_rng(1).integers(0, 30, (8, 20))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a store in which head 1 rises, and the losses fall, at step 1,000."""
    return planted(str(tmp_path_factory.mktemp("answers") / "run.zarr"), 1000, 1)


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a store in which head 0 rises, and the losses fall, at step 3,000."""
    return planted(str(tmp_path_factory.mktemp("later") / "later.zarr"), 3000, 0)


def planted(uri: str, middle: int, head: int, tokens: bool = True) -> str:
    """Write a store with changes at a step, whose tokens may be unknown; return its URI."""
    made = Store(uri)
    made.create_or_open({"architecture": "planted"}, "planted")
    heads = Template(
        "head_scores", variant_id(measure="head_scores"),
        (Variable("induction", ("step", "layer", "head"), "1", "A score.", dtype="float32"),
         Variable("induction_null", ("step", "layer", "head"), "1", "Its null.", dtype="float32")),
        {"layer": np.arange(1), "head": np.arange(2)}, {"version": 1},
    )  # fmt: skip
    digest = digest_of(TOKENS.tolist())
    losses = Template(
        "token_loss", variant_id(measure="token_loss"),
        (Variable("loss", ("step", "sequence", "position"), "nats", "A loss.", dtype="float32"),),
        {"sequence": np.arange(8), "position": np.arange(19)},
        {"version": 1, "input": {"name": "text", "digest": digest},
         "parameters": {"early_token": 3, "late_token": 18}},
    )  # fmt: skip
    made.save_input("text", digest, TOKENS, {}, {"kind": "array"})
    writer = Writer(made, made.require_groups([heads, losses], plan=True).number, [heads, losses])
    rng = np.random.default_rng(0)
    for step in STEPS:
        writer.write([*_rows(rng, int(step), middle, head, tokens, heads, losses)])
    show(made, heads, losses)
    return uri


def _rows(
    rng: np.random.Generator,
    step: int,
    middle: int,
    head: int,
    tokens: bool,
    heads: Template,
    losses: Template,
) -> Iterator[tuple[str, Row, dict[str, np.ndarray]]]:
    done = 1 / (1 + (middle / step) ** 8)
    rises = 0.8 * done * (np.arange(2) == head)
    weights = digest_of(step)
    values = (
        (
            heads,
            {
                "induction": 0.02 + rises[None] + rng.normal(0, 0.01, (1, 2)),
                "induction_null": np.full((1, 2), 0.05),
            },
        ),
        (losses, {"loss": 4 - 2 * done + rng.normal(0, 0.1, (8, 19))}),
    )
    for of, numbers in values:
        row = Row(
            step,
            fingerprint(of.variant, weights),
            weights,
            f"step{step}",
            step * 100 if tokens else None,
        )
        yield of.group, row, {name: np.float32(one) for name, one in numbers.items()}


def ontogeny(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_transitions_are_printed_counted_and_written(store: str, tmp_path: Path) -> None:
    printed = ontogeny("transitions", store, "--output", str(tmp_path / "table.csv"))
    (line,) = [line for line in printed.splitlines() if line.lstrip().startswith("L0H1")]
    assert "+0." in line and "head_" in line
    assert "1 change suddenly" in printed
    assert "left out: token_loss/loss" in CliRunner().invoke(app, ["transitions", store]).stderr
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


def test_unknown_tokens_and_origins_are_refused(store: str, tmp_path: Path) -> None:
    unknown = planted(str(tmp_path / "unknown.zarr"), 1000, 1, tokens=False)
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


def test_losses_say_where_they_fell(store: str) -> None:
    found = json.loads(ontogeny("losses", store, "--json"))
    assert found["space"]["shares"][0] > 0.9
    assert found["space"]["first_is_overall_loss"]["scores"] == "holds"
    assert 800 < found["derivative"]["step"] < 1250
    assert found["derivative"]["low"] < found["derivative"]["derivative"] < 0
    assert found["tokens"]["median_age"] == pytest.approx(1000, rel=0.1)
    printed = ontogeny("losses", store)
    assert "Steepest at step" in printed and "overall loss" in printed


def test_losses_of_a_group_that_is_not_there(store: str) -> None:
    result = CliRunner().invoke(app, ["losses", store, "--group", "token_los"])
    assert result.exit_code == 2
    assert "has no losses in 'token_los'" in result.output and "token_loss" in result.output
