"""Steps at which numbers of a run rise, by hand; verdicts on formation, on planted curves."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from pipeline.experiments import induction, smeared_keys, transplants
from pipeline.experiments.claims import DOES_NOT_HOLD, HOLDS, UNDECIDED
from pipeline.experiments.formation import formed_at, in_context, reached, rise, strongest
from pipeline.experiments.runs import Run
from pipeline.experiments.settings import substrings
from tests.pipeline.experiments.planted import (
    Groups,
    PlantedRuns,
    findings,
    noise,
    over_steps,
    planted,
    ramp,
    saved,
    scores_over,
    verdicts,
)

STEPS = np.array([0, 100, 200, 300])


def series(*values: float) -> xr.DataArray:
    return over_steps(STEPS, series=values)["series"]


@pytest.mark.parametrize("first", [0.0, 2.0])
def test_a_rise_is_measured_from_the_first_value_to_the_largest(first):
    # A tenth is halfway to step 100; 0.5 and 0.9 are 3/8 and 7/8 of the way from 100 to 200.
    found = rise(series(0.0, 0.2, 1.0, 0.6) + first)
    assert (found.middle, found.width) == pytest.approx((137.5, 137.5))
    assert found.relative_width == pytest.approx(1.0)


def test_a_rise_in_proportion_to_the_step_has_a_width_of_eight_fifths():
    assert rise(series(0, 1, 2, 3)).relative_width == pytest.approx(1.6)


def test_what_never_rises_has_no_rise():
    found = rise(series(0.5, 0.4, 0.5, 0.1))
    assert np.isnan([found.middle, found.width, found.relative_width]).all()


@pytest.mark.parametrize(
    ("level", "step"),
    [(0.05, 0), (0.1, 0), (0.2, 50), (0.3, 100), (0.6, 150), (0.9, 200), (0.95, np.nan)],
)
def test_a_level_is_reached_at_the_first_step_between_two_checkpoints(level, step):
    found = reached(STEPS, np.array([0.1, 0.3, 0.9, 0.2]), level)
    assert found == pytest.approx(step, nan_ok=True)


def test_a_head_forms_at_three_tenths_else_no_sooner_than_the_last_step():
    curve = series(0.0, 0.2, 1.0, 0.0)
    assert formed_at(curve) == (pytest.approx(112.5), True)
    assert formed_at(curve, 0.6) == (pytest.approx(150), True)
    assert formed_at(curve, 1.1) == (300, False)


def test_the_strongest_head_may_be_another_at_each_step():
    of = {(0, 1): [0.1, 0.2, 0.3, 0.4], (1, 2): [0.9, 0.1, 0.1, 0.5], (0, 3): [0, 0.6, 0, 0]}
    heads = xr.Dataset(
        {"induction": scores_over(STEPS, of), "previous_token": scores_over(STEPS, {(0, 0): 0.7})}
    )
    result = planted(
        Run(substrings(), {}),
        {"head_scores": heads, "token_loss": over_steps(STEPS, in_context_score=-1.0)},
    )
    assert strongest(result).values.tolist() == [0.9, 0.6, 0.3, 0.5]
    assert strongest(result, layer=1).values.tolist() == [0.9, 0.1, 0.1, 0.5]
    assert strongest(result, "previous_token").values.tolist() == [0.7] * 4
    assert in_context(result).values.tolist() == [-1.0] * 4


# Of models with smeared keys: start and end of the rise, and the in-context score at the end.
Curve = tuple[float, float, float]


def smeared_rows(run: Run, curves: Mapping[tuple[int, bool], Curve]) -> Groups:
    model, steps = run.training.model, saved(run)
    start, end, score = curves[model.num_hidden_layers, model.smeared_keys]
    start, end = start + 100 * noise(run), end + 100 * noise(run)
    head = scores_over(steps, {(0, 1): ramp(steps, start, end, high=0.6)}, model.num_hidden_layers)
    learned = ramp(steps, start, end, 0.0, -score * (1 + noise(run)))
    return {
        "head_scores": xr.Dataset({"induction": head}),
        "token_loss": over_steps(steps, in_context_score=learned),
    }


PLAIN, SMEARED, SINGLE = (2, False), (2, True), (1, True)


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize(
    ("curves", "expected"),
    [
        # Relative widths of 80 / 550 and 160 / 200.
        ({PLAIN: (500, 600, 1.0), SMEARED: (100, 300, 0.4), SINGLE: (0, 20, 0.98)}, HOLDS),
        # Of 320 / 300 and 80 / 550.
        ({PLAIN: (100, 500, 1.0), SMEARED: (500, 600, 1.5), SINGLE: (20, 590, 0.5)}, DOES_NOT_HOLD),
    ],
)
def test_smeared_keys_are_compared_with_plain_ones(curves, expected, quick):
    runs = PlantedRuns(partial(smeared_rows, curves=curves), quick)
    assert verdicts(smeared_keys.EXPERIMENT, runs) == [expected] * 3


def test_effects_of_smeared_keys_by_hand():
    curves = {PLAIN: (500, 600, 2.0), SMEARED: (100, 300, 0.7), SINGLE: (0, 20, 1.0)}
    found = findings(smeared_keys.EXPERIMENT, PlantedRuns(partial(smeared_rows, curves=curves)))
    values = [one.effect.by_seed[0] for one in found.values()]  # without noise
    assert values == pytest.approx([200 / 550, (160 / 200) / (80 / 550), 0.5])


def test_plain_keys_that_form_no_head_count_as_their_last_step():
    curves = {PLAIN: (2000, 2100, 1.0), SMEARED: (500, 600, 1.0), SINGLE: (500, 600, 1.0)}
    earlier, bump, _ = findings(
        smeared_keys.EXPERIMENT, PlantedRuns(partial(smeared_rows, curves=curves))
    ).values()
    assert earlier.effect.by_seed[0] == pytest.approx(550 / 1200)
    assert earlier.found.startswith("formed in 0 of 3 runs")
    assert bump.verdict == UNDECIDED  # what never rises has no width


# Steps at which heads form, the later ones in models without a part.
SOONER = {"previous": 200, "embedding": 500, "pattern": 150, "alone": 600, "induction": 210,
          "embeddings": 700}  # fmt: skip
EMBEDDING = ["model.embed_tokens.weight", "model.embed_positions.weight"]
EMBEDDINGS = [*EMBEDDING, "lm_head.weight"]


def kind_of(run: Run) -> str:
    """Return which of the six groups of fresh models a run is of, by what is put into it."""
    training = run.training
    if not training.keep:
        assert training.model.fixed_attention in (None, {"L0H0": 1})
        return "pattern" if training.model.fixed_attention else "alone"
    (part,) = training.keep
    assert Path(part.checkpoint).name == "step-1200"  # the end of the donor
    head = training.seed - 100  # that of the donor with this seed
    kinds = {
        (): {2: "embedding", 3: "embeddings"},
        (f"L0H{head}",): {2: "previous"},
        (f"L1H{3 - head}",): {3: "induction"},
    }
    assert list(part.parameters) in (EMBEDDING, EMBEDDINGS)
    return kinds[tuple(part.heads)][len(part.parameters)]


def transplant_rows(run: Run, forms: Mapping[str, float]) -> Groups:
    """Return rows of a donor, or of a fresh model whose heads form at the step of its group."""
    steps, seed = saved(run), run.training.seed
    if seed < 100:
        scores = {
            # The strongest of the other layer must not be taken.
            "previous_token": {(0, seed): 0.7, (1, 0): 0.9},
            "induction": {(1, 3 - seed): 0.8, (0, 0): 0.9},
        }
    else:
        kind = kind_of(run)
        at = forms[kind] + np.sin(seed - 100)
        of_previous = kind in ("induction", "embeddings")
        # Reached at once in the other layer, and by the other score in the order of the groups.
        rising = ramp(steps, at - 50, at + 50)  # 0.3 at 20 before, 0.5 at the step
        other = ramp(steps, 0, 1000 - forms[kind])
        scores = {
            "previous_token": {(0, 2): rising if of_previous else other, (1, 1): 1.0},
            "induction": {(1, 1): other if of_previous else rising, (0, 0): 1.0},
        }
    return {
        "head_scores": xr.Dataset({name: scores_over(steps, of) for name, of in scores.items()})
    }


@pytest.mark.parametrize(
    ("forms", "refuted"),
    [
        (SOONER, None),
        (SOONER | {"previous": 501, "embedding": 300}, "previous-token-head-helps"),
        (SOONER | {"pattern": 650, "alone": 600}, "previous-token-pattern-helps"),
        (SOONER | {"induction": 750, "embeddings": 700}, "induction-head-helps"),
    ],
)
def test_each_transplant_is_compared_with_its_own_control(forms, refuted):
    runs = PlantedRuns(partial(transplant_rows, forms=forms))
    found = findings(transplants.EXPERIMENT, runs)
    assert {name: one.verdict for name, one in found.items()} == {
        name: DOES_NOT_HOLD if name == refuted else HOLDS for name in found
    }
    by_hand = [
        (forms["previous"] - 20) / (forms["embedding"] - 20),
        (forms["pattern"] - 20) / (forms["alone"] - 20),
        forms["induction"] / forms["embeddings"],
    ]
    assert [one.effect.by_seed[0] for one in found.values()] == pytest.approx(by_hand)
    assert all(list(one.effect.by_seed) == [0, 1, 2] for one in found.values())


def test_heads_that_do_not_form_count_as_the_last_step():
    runs = PlantedRuns(partial(transplant_rows, forms=SOONER | {"embedding": 900}))
    found = findings(transplants.EXPERIMENT, runs)["previous-token-head-helps"]
    assert found.effect.by_seed[0] == pytest.approx(180 / 800)
    assert "against 800/800/800" in found.found and "formed in 3 and 0 of 3 runs" in found.found


def induction_rows(
    run: Run, heads: tuple[float, float], learned: tuple[float, float], single: tuple[float, float]
) -> Groups:
    """Return rows whose heads and in-context score rise between two steps.

    single: of one layer, the induction score above its null, and the in-context score at the end.
    """
    steps, layers = saved(run), run.training.model.num_hidden_layers
    shift = 100 * noise(run)
    if layers == 2:
        scores, null, share = {(1, 1): ramp(steps, heads[0] + shift, heads[1] + shift)}, 0.0, 1.0
    else:
        # The score alone is the same in all cases, and highest before the end.
        scores, null = {(0, 1): np.where(steps < 1200, 0.9, 0.6)}, 0.6 - single[0]
        share = single[1]
    induction = scores_over(steps, scores, layers)
    curve = ramp(steps, learned[0] + shift, learned[1] + shift, 0.0, -share * (1 + noise(run)))
    return {
        "head_scores": xr.Dataset({"induction": induction, "induction_null": induction * 0 + null}),
        "token_loss": over_steps(steps, in_context_score=curve),
    }


def plant_corner(monkeypatch: pytest.MonkeyPatch, step: float) -> None:
    """Make all runs of two layers have their corner at a step, and others in each half."""

    def corners(store: str) -> xr.Dataset:
        assert store.startswith("substrings-2-layers")
        return xr.Dataset(
            {"step": ("window", [100.0, step, 900.0]), "candidate": ("window", [500.0] * 3)},
            {"window": ["first half", "whole", "last half"]},
        )

    monkeypatch.setattr(induction.aggregates, "loss_space", lambda store: store)
    monkeypatch.setattr(induction, "find_corner", corners)


@pytest.mark.parametrize(
    ("heads", "learned", "corner", "single", "expected"),
    [
        ((450, 550), (440, 560), 500, (0.1, 0.2), [HOLDS] * 5),
        ((450, 550), (440, 560), 500, (0.4, 0.8), [HOLDS] * 3 + [DOES_NOT_HOLD] * 2),
        ((0, 1000), (0, 1000), 500, (0.1, 0.2), [DOES_NOT_HOLD] + [HOLDS] * 4),
        ((450, 550), (240, 360), 500, (0.1, 0.2), [HOLDS, DOES_NOT_HOLD] + [HOLDS] * 3),
        ((450, 550), (690, 810), 500, (0.1, 0.2), [HOLDS, DOES_NOT_HOLD] + [HOLDS] * 3),
        *(
            (
                (450, 550),
                (440, 560),
                corner,
                (0.1, 0.2),
                [HOLDS] * 2 + [DOES_NOT_HOLD] + [HOLDS] * 2,
            )
            for corner in (300, 700, np.nan)
        ),
    ],
)
def test_induction_is_judged_by_when_heads_score_and_corner_come(
    heads, learned, corner, single, expected, monkeypatch
):
    plant_corner(monkeypatch, corner)
    rows = partial(induction_rows, heads=heads, learned=learned, single=single)
    assert verdicts(induction.EXPERIMENT, PlantedRuns(rows, quick=False)) == expected


def test_effects_of_induction_by_hand(monkeypatch):
    plant_corner(monkeypatch, 600)
    rows = partial(induction_rows, heads=(450, 550), learned=(300, 500), single=(0.1, 0.2))
    found = findings(induction.EXPERIMENT, PlantedRuns(rows))
    narrow, together, corner, no_head, no_jump = found.values()
    values = [one.effect.by_seed[0] for one in (narrow, together, no_head, no_jump)]
    assert values == pytest.approx([80 / 500, 400 / 500, 0.1, 0.2])
    assert "half of the rise at steps 500," in narrow.found and ": 1.20," in corner.found
