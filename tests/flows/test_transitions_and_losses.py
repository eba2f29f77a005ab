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
from flows.cli.loss_lines import _corner, _logits
from pipeline.query.loss_axes import corner_answer, logit_answers
from pipeline.schema import Variable
from pipeline.store import Row, Store, Template
from pipeline.store.fingerprint import digest_of, fingerprint, variant_id
from pipeline.store.writer import Writer
from tests.pipeline.aggregate.test_corner import as_space, bent
from tests.pipeline.store.synthetic import show

STEPS = np.unique(np.geomspace(1, 100_000, 60).round().astype(int))
LATE = np.arange(19) >= 9
TOKENS = np.random.default_rng(1).integers(0, 30, (8, 20))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a store in which head 1 rises, and the losses fall, at step 1,000."""
    return planted(tmp_path_factory.mktemp("answers") / "run.zarr", means=False)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return two runs on the same tokens; the first one's late tokens end 0.5 nats higher."""
    folder = tmp_path_factory.mktemp("pair")
    return [planted(folder / "small.zarr", seed=1, late=0.5), planted(folder / "run.zarr")]


def planted(
    uri: Path, seed: int = 0, late: float = 0.0, tokens: np.ndarray = TOKENS, means: bool = True
) -> str:
    """Write a store; late: nats that tokens from 10 on lose more after the fall.

    means: store the mean loss and the in-context score too.
    """
    made = Store(str(uri))
    made.create_or_open({"architecture": f"planted {seed}"}, f"planted-{seed}")
    heads = Template(
        "head_scores", variant_id(measure="head_scores"),
        (Variable("induction", ("step", "layer", "head"), "1", "A score.", dtype="float32"),
         Variable("induction_null", ("step", "layer", "head"), "1", "Its null.", dtype="float32")),
        {"layer": np.arange(1), "head": np.arange(2)}, {"version": 1},
    )  # fmt: skip
    digest = digest_of(tokens.tolist())
    losses = Template(
        "token_loss", variant_id(measure="token_loss"),
        (Variable("loss", ("step", "sequence", "position"), "nats", "A loss.", dtype="float32"),
         Variable("mean", ("step",), "nats", "Its mean.", dtype="float64"),
         Variable("in_context_score", ("step",), "nats", "", dtype="float64"))[: means * 2 + 1],
        {"sequence": np.arange(8), "position": np.arange(19)},
        {"version": 1, "input": {"name": "text", "digest": digest},
         "parameters": {"early_token": 3, "late_token": 18}},
    )  # fmt: skip
    made.save_input("text", digest, tokens, {}, {"kind": "array"})
    writer = Writer(made, made.require_groups([heads, losses], plan=True).number, [heads, losses])
    rng = np.random.default_rng(seed)
    for step in STEPS:
        writer.write([*_rows(rng, int(step), late, heads, losses)])
    show(made, heads, losses)
    return str(uri)


def _rows(
    rng: np.random.Generator, step: int, late: float, heads: Template, losses: Template
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
        (losses, _losses(4 - 2 * done + late * done * LATE + rng.normal(0, 0.1, (8, 19)))),
    )
    for of, numbers in values:
        row = Row(step, fingerprint(of.variant, weights), weights, f"step{step}", step * 100)
        dtypes = {variable.name: variable.dtype for variable in of.variables}
        yield of.group, row, {n: np.asarray(numbers[n], dtype) for n, dtype in dtypes.items()}


def _losses(loss: np.ndarray) -> dict[str, np.ndarray]:
    score = loss[:, 17].mean() - loss[:, 2].mean()
    return {"loss": loss, "mean": loss.mean(), "in_context_score": score}


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


def test_losses_say_where_they_fell(pair: list[str]) -> None:
    store = pair[1]
    found = json.loads(ontogeny("losses", store, "--json"))
    assert found["space"]["shares"][0] > 0.9
    assert found["axes"]["first_is_overall_loss"]["scores"] == "holds"
    first = found["axes"]["components"][0]["scores"]
    assert [row["share"] for row in first] == sorted((row["share"] for row in first), reverse=True)
    assert found["changes"]["induction"]["head"] == 1
    assert found["changes"]["mean"]["midpoint"] == pytest.approx(1000, rel=0.1)
    assert found["logits"] is None
    assert 800 < found["derivative"]["step"] < 1250
    assert found["derivative"]["low"] < found["derivative"]["derivative"] < 0
    assert found["tokens"]["median_age"] == pytest.approx(1000, rel=0.1)
    assert [row["token"] for row in found["positions"]["at"]] == [10, 19]
    printed = ontogeny("losses", store)
    assert "Steepest at step" in printed and "overall loss" in printed
    assert "no logits are kept" in printed and "repeated pair:" in printed
    assert "unknown" not in printed and "None" not in printed and "nan" not in printed


def test_losses_of_two_runs_are_compared(pair: list[str]) -> None:
    found = json.loads(ontogeny("losses", *pair, "--sizes", "1e6,2e6", "--json"))
    assert list(found["runs"]) == ["small", "run"]
    together = found["together"]
    assert together["positions"]["small"] == ["small"] and together["positions"]["big"] == ["run"]
    by_position = np.array(together["positions"]["by_position"])
    # 0.1 nats of noise in each of two runs, over 8 sequences: a standard error of 0.05.
    np.testing.assert_allclose(by_position, 0.5 * LATE, atol=0.2)
    assert by_position[LATE].mean() == pytest.approx(0.5, abs=0.05)
    assert [row["token"] for row in together["positions"]["at"]] == [10, 19]
    scores = [row["score"] for row in together["in_context"]["runs"]]
    assert scores[0] - scores[1] == pytest.approx(0.5, abs=0.2)
    assert together["in_context"]["equal_p"] < 0.05
    # Losses end 0.5 nats apart in 10 of 19 tokens, beside the noise of two runs.
    apart = np.sqrt(0.25 * LATE.mean() + 2 * 0.1**2)
    assert together["space"]["between_ends"][0][1] == pytest.approx(apart, rel=0.1)
    assert set(together["derivative"]["runs"]["run"]) == {"before", "after"}
    # The final loss is a mean over the late checkpoints, so that the noise is below 0.1 nats.
    assert 0.05 < together["tokens"]["final_surprisal"] < 0.4
    printed = ontogeny("losses", *pair, "--tokens", "10,100")
    assert "Sizes are not given" in printed and "around token 10: +0." in printed
    assert "Beyond the end of the sequences: 100." in printed
    assert "None" not in printed and "nan" not in printed


def test_runs_on_other_tokens_are_not_compared(pair: list[str], tmp_path: Path) -> None:
    other = planted(tmp_path / "other.zarr", tokens=TOKENS[::-1])
    result = CliRunner().invoke(app, ["losses", pair[1], other])
    assert result.exit_code == 2
    assert "different inputs" in result.output and "other: " in result.output


@pytest.mark.parametrize("sizes", ["1", "1,x", "1,-2", ""])
def test_sizes_that_cannot_be_used_are_refused(pair: list[str], sizes: str) -> None:
    assert CliRunner().invoke(app, ["losses", *pair, "--sizes", sizes]).exit_code == 2


def test_losses_of_a_group_that_is_not_there(store: str) -> None:
    result = CliRunner().invoke(app, ["losses", store, "--group", "token_los"])
    assert result.exit_code == 2
    assert "has no losses in 'token_los'" in result.output and "token_loss" in result.output


@pytest.mark.parametrize(("onset", "where"), [(700.0, "is within"), (100.0, "is not within")])
def test_a_corner_is_compared_with_the_induction_transition(onset: float, where: str) -> None:
    induction = {"onset": onset, "end": onset + 100, "layer": 1, "head": 2}
    corner = corner_answer(as_space(bent(0.3)), "run", induction)
    (_, line) = _corner(corner, induction)
    assert corner["in_induction"] is (onset == 700)
    assert where in line and "L1H2" in line
    (only,) = _corner(corner_answer(as_space(walk()), "run", induction), induction)
    assert "cannot tell" in only


def walk() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((60, 2)).cumsum(axis=0)


def test_kept_logits_are_the_control_of_the_losses() -> None:
    series = 1 / (1 + (1000 / STEPS) ** 8)
    rng = np.random.default_rng(0)
    values = series[:, None, None] * rng.standard_normal((6, 4)) + rng.normal(
        0, 0.01, (len(STEPS), 6, 4)
    )
    steps = {"step": STEPS}
    run = xr.DataTree.from_dict(
        {"kept": xr.Dataset({"logits": (("step", "pair", "residue"), values)}, steps)}
    )
    losses = xr.Dataset({"mean": ("step", 4 - 2 * series)}, steps)
    found = logit_answers(run, losses, None)
    assert found is not None and found["variable"] == "kept/logits"
    assert found["shares"][0] > 0.9 and found["mean_loss_share"][0] > 0.99
    first, *_ = _logits(found, None)
    assert "components of kept/logits" in first and "mean loss explains" in first
