"""Sentences and JSON of `transitions --together`, over stores with planted changes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.cli.together import together_lines
from pipeline.query.together import together_answers
from pipeline.schema import Variable
from pipeline.store import Row, Store, Template
from pipeline.store.fingerprint import digest_of, fingerprint, variant_id
from pipeline.store.writer import Writer
from tests.pipeline.store.synthetic import show

STEPS = np.unique(np.geomspace(1, 100_000, 70).round().astype(int))
HEADS = 3


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a store whose loss falls at 1,000 while head 1 rises; head 2 rises and falls again."""
    uri = str(tmp_path_factory.mktemp("together") / "run.zarr")
    made = Store(uri)
    made.create_or_open({"architecture": "planted"}, "planted")
    heads = Template(
        "head_scores", variant_id(measure="head_scores"),
        (Variable("induction", ("step", "layer", "head"), "1", "A score.", dtype="float32"),
         Variable("induction_null", ("step", "layer", "head"), "1", "Its null.", dtype="float32")),
        {"layer": np.arange(1), "head": np.arange(HEADS)}, {"version": 1},
    )  # fmt: skip
    losses = Template(
        "token_loss", variant_id(measure="token_loss"),
        (Variable("mean", ("step",), "nats", "A loss.", dtype="float32"),), {}, {"version": 1},
    )  # fmt: skip
    writer = Writer(made, made.require_groups([heads, losses], plan=True).number, [heads, losses])
    rng = np.random.default_rng(0)
    for step in STEPS:
        writer.write([*_rows(rng, int(step), heads, losses)])
    show(made, heads, losses)
    return uri


def _rows(
    rng: np.random.Generator, step: int, heads: Template, losses: Template
) -> Iterator[tuple[str, Row, dict[str, np.ndarray]]]:
    risen, gone = (1 / (1 + (at / step) ** 8) for at in (1000, 20_000))
    scores = 0.05 + np.array([0.0, 0.8 * risen, 0.6 * (risen - gone)])
    values = (
        (heads, {"induction": (scores + rng.normal(0, 0.01, HEADS))[None],
                 "induction_null": np.full((1, HEADS), 0.05)}),
        (losses, {"mean": np.array(4 - 2 * risen + rng.normal(0, 0.03))}),
    )  # fmt: skip
    weights = digest_of(step)
    for of, numbers in values:
        row = Row(step, fingerprint(of.variant, weights), weights, f"step{step}", step * 100)
        yield of.group, row, {name: np.float32(one) for name, one in numbers.items()}


@pytest.fixture(scope="module")
def answers(store: str) -> dict[str, Any]:
    """Return the answers on that store."""
    return together_answers([store], nulls=10)


def test_answers_are_json(answers: dict[str, Any]) -> None:
    assert json.loads(json.dumps(answers, allow_nan=False)) == answers


def test_the_loss_and_the_head_coincide(answers: dict[str, Any]) -> None:
    found = answers["runs"]["run"]["coincidence"]
    (pair,) = found["pairs"]
    assert (pair["first"], pair["second"]) == ("mean loss", "induction head L0H1")
    assert pair["verdict"] == "together" and abs(pair["lag"]) < 0.03
    assert pair["p_heads"] <= 1 and found["head_series"] == 2
    assert found["left_out"]["K-composition"] == "it is not stored"


def test_steps_and_the_vestigial_head_are_counted(answers: dict[str, Any]) -> None:
    found = answers["runs"]["run"]
    (own,) = (row for row in found["steps"]["shares"]
              if (row["which"], row["kind"]) == ("with a pattern", "series"))  # fmt: skip
    assert own["sudden_count"] == 2 and own["smooth_count"] == 0
    (row,) = found["vestigial"]["found"]
    assert (row["layer"], row["head"], row["formed"]) == (0, 2, 1)
    assert row["fall"] == pytest.approx(0.6, abs=0.05)


def test_induction_heads_are_counted_at_every_threshold(answers: dict[str, Any]) -> None:
    found = answers["induction_share"]
    assert found["sizes"] == {"run": 3} and found["size"] == "heads"
    assert [row["count"] for row in found["shares"]] == [1] * 5
    assert all(row["heads"] == 3 for row in found["shares"])


def test_sentences_say_what_was_found(answers: dict[str, Any]) -> None:
    lines = list(together_lines(answers))
    assert lines[0].startswith("mean loss and induction head L0H1: together; ")
    assert any("6% have such an overlap at p = 0.05" in line for line in lines)
    assert any("1 of 3 series of heads and frequencies rose and fell" in line for line in lines)
    assert any(line.startswith("  head_scores/induction L0H2: rose by 0.6") for line in lines)
    assert lines[-1].startswith("run: 33% [6% to 79%] of 3 heads are induction heads at the end")


def test_runs_are_named_and_those_without_answers_say_so(tmp_path: Path) -> None:
    stores = [str(tmp_path / f"{name}.zarr") for name in ("one", "other")]
    for uri in stores:
        Store(uri).create_or_open({"architecture": "planted"}, "planted")
    lines = list(together_lines(together_answers(stores)))
    assert lines[0] == "one:" and lines[4] == "other:"
    assert lines[1].startswith("Not compared, because it is not stored: mean loss, ")
    assert lines[3].startswith("No series of a head or a frequency")
