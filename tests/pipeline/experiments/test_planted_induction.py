"""Verdicts of the experiments on strict induction, on five tokens and on text, on planted rows."""

from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr

from pipeline.experiments import bigrams, five_tokens, induction_on_text, strict_induction
from pipeline.experiments.claims import DOES_NOT_HOLD, HOLDS, UNDECIDED
from pipeline.experiments.runs import Run
from tests.pipeline.experiments.planted import Groups, PlantedRuns, noise, verdicts

STEPS = np.arange(0, 7001, 250)


@pytest.mark.parametrize(
    ("strict", "fuzzy", "expected"),
    [(0.35, 0.6, [HOLDS, HOLDS]), (0.97, 0.98, [DOES_NOT_HOLD, DOES_NOT_HOLD])],
)
def test_strict_induction_is_judged_on_the_heads_that_score(strict, fuzzy, expected):
    scores = np.full((1, 2, 4), 0.05)
    scores[0, 1, 2], scores[0, 1, 0] = 0.9, 0.4

    def rows(run: Run) -> Groups:
        if "head_scores" in run.measures:
            return {"head_scores": xr.Dataset({"induction": (("step", "layer", "head"), scores)},
                                              {"layer": [0, 1], "head": range(4)})}  # fmt: skip
        assert all(of["heads"] == [[1, 2], [1, 0]] for of in run.measures.values())
        shares = {"strict_share": ("step", [strict + noise(run)]),
                  "fuzzy_share": ("step", [fuzzy + noise(run)])}  # fmt: skip
        return dict.fromkeys(("strict_induction", "strict_induction.text"), xr.Dataset(shares))

    assert verdicts(strict_induction.EXPERIMENT, PlantedRuns(rows, quick=False)) == expected


@pytest.mark.parametrize(("cost", "expected"), [(0.4, HOLDS), (0.02, DOES_NOT_HOLD)])
@pytest.mark.parametrize("quick", [False, True])
def test_five_tokens_are_worth_what_the_earlier_ones_cost(cost, expected, quick):
    def rows(run: Run) -> Groups:
        values = {"earlier_cost": cost + noise(run), "earlier_cost_error": 0.02, "last_cost": 0.7}
        group = xr.Dataset({name: ("step", [value]) for name, value in values.items()})
        return {"source_corruption": group}

    on_text, on_substrings = verdicts(five_tokens.EXPERIMENT, PlantedRuns(rows, quick=quick))
    assert on_substrings == expected
    assert on_text == (UNDECIDED if quick else expected)  # one run has no interval


def text_rows(run: Run, curve: Callable, single: float) -> Groups:
    """Return rows in which induction and the score follow a curve, `single` of it in one layer."""
    size = (1.0 if run.training.model.num_hidden_layers == 2 else single) * (1 + noise(run))
    grown = size * curve(STEPS)
    induction = np.zeros((len(STEPS), 2, 4))
    induction[:, 1, 3] = 0.2 * grown
    loss = np.full((len(STEPS), 255), 4.0)
    loss[:, -16:] -= 0.5 * grown[:, None]
    step = {"step": STEPS}
    return {
        "natural_induction": xr.Dataset(
            {"induction": (("step", "layer", "head"), induction + 0.01),
             "null": (("step", "layer", "head"), np.full_like(induction, 0.01))}, step),
        "token_loss": xr.Dataset({"mean_by_position": (("step", "position"), loss)}, step),
    }  # fmt: skip


def test_text_is_judged_by_its_curve_and_its_control():
    def sudden(steps: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp((3000 - steps) / 100))

    def linear(steps: np.ndarray) -> np.ndarray:
        return steps / 7000

    experiment = induction_on_text.EXPERIMENT
    narrow = PlantedRuns(lambda run: text_rows(run, sudden, single=0.1), quick=False)
    assert verdicts(experiment, narrow) == [HOLDS] * 4
    unfinished = PlantedRuns(lambda run: text_rows(run, linear, single=0.9), quick=False)
    assert verdicts(experiment, unfinished) == [UNDECIDED, UNDECIDED, DOES_NOT_HOLD, DOES_NOT_HOLD]
    gradual = PlantedRuns(
        lambda run: text_rows(run, lambda steps: np.minimum(steps / 5250, 1), 0.1), quick=False
    )
    assert verdicts(experiment, gradual)[:2] == [DOES_NOT_HOLD, HOLDS]
    early = PlantedRuns(
        lambda run: (
            text_rows(run, sudden, 0.1)
            | {"token_loss": text_rows(run, lambda steps: sudden(steps + 1000), 0.1)["token_loss"]}
        ),
        quick=False,
    )
    assert verdicts(experiment, early)[:2] == [HOLDS, DOES_NOT_HOLD]


@pytest.mark.parametrize(("divergence", "expected"), [(0.2, HOLDS), (1.6, DOES_NOT_HOLD)])
def test_bigrams_are_those_of_the_text_that_was_trained_on(divergence, expected, tmp_path):
    np.save(tmp_path / "corpus.npy", np.zeros(10_000))

    def rows(run: Run) -> Groups:
        if "bigrams" in run.measures:
            corpus = run.inputs["corpus"]
            assert corpus["sequences"] * corpus["length"] <= 9000  # the rest is held out
        values = {"direct_path": divergence + noise(run), "from_unigrams": 2.0}
        group = xr.Dataset({name: ("step", [value]) for name, value in values.items()})
        return {"bigrams": group}

    assert verdicts(bigrams.EXPERIMENT, PlantedRuns(rows, quick=False, checkpoints=tmp_path)) == [
        expected
    ]
