"""`ontogeny losses`, over stores with planted changes."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from flows.cli import app
from flows.cli.loss_lines import _corner, _logits
from pipeline.query.loss_axes import corner_answer, logit_answers
from tests.flows.planted_store import LATE, STEPS, TOKENS, Planted, ontogeny
from tests.pipeline.aggregate.test_corner import as_space, bent


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return two runs on the same tokens; the first one's late tokens end 0.5 nats higher."""
    folder = tmp_path_factory.mktemp("pair")
    small = Planted(seed=1, late=0.5).write(folder / "small.zarr")
    return [small, Planted().write(folder / "run.zarr")]


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
    other = Planted(tokens=TOKENS[::-1]).write(tmp_path / "other.zarr")
    result = CliRunner().invoke(app, ["losses", pair[1], other])
    assert result.exit_code == 2
    assert "different inputs" in result.output and "other: " in result.output


@pytest.mark.parametrize("sizes", ["1", "1,x", "1,-2", ""])
def test_sizes_that_cannot_be_used_are_refused(pair: list[str], sizes: str) -> None:
    assert CliRunner().invoke(app, ["losses", *pair, "--sizes", sizes]).exit_code == 2


def test_losses_of_a_group_that_is_not_there(pair: list[str]) -> None:
    result = CliRunner().invoke(app, ["losses", pair[1], "--group", "token_los"])
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
