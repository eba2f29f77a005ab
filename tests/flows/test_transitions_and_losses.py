"""`ontogeny transitions` and `ontogeny losses`, over a store with planted changes."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from flows.cli import app
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
    uri = str(tmp_path_factory.mktemp("answers") / "run.zarr")
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
        writer.write([*_rows(rng, int(step), heads, losses)])
    show(made, heads, losses)
    return uri


def _rows(
    rng: np.random.Generator, step: int, heads: Template, losses: Template
) -> Iterator[tuple[str, Row, dict[str, np.ndarray]]]:
    done = 1 / (1 + (1000 / step) ** 8)
    weights = digest_of(step)
    values = (
        (
            heads,
            {
                "induction": np.array([[0.02, 0.02 + 0.8 * done]]) + rng.normal(0, 0.01, (1, 2)),
                "induction_null": np.full((1, 2), 0.05),
            },
        ),
        (losses, {"loss": 4 - 2 * done + rng.normal(0, 0.1, (8, 19))}),
    )
    for of, numbers in values:
        row = Row(step, fingerprint(of.variant, weights), weights, f"step{step}", step * 100)
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
