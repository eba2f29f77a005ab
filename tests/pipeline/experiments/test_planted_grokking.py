"""Numbers of generalisation, by hand, and verdicts on runs of modular arithmetic, planted."""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pytest
import xarray as xr

from pipeline.experiments import (
    grokking,
    initial_frequencies,
    nine_terms,
    optimizers,
    other_operations,
)
from pipeline.experiments.claims import DOES_NOT_HOLD, HOLDS, UNDECIDED
from pipeline.experiments.generalisation import (
    fall_width,
    generalised_at,
    last_value,
    probability,
)
from pipeline.experiments.runs import Result, Run
from pipeline.experiments.settings import modular
from tests.pipeline.experiments.planted import (
    Groups,
    PlantedRuns,
    findings,
    noise,
    over_steps,
    planted,
    saved,
    verdicts,
)

STEPS = np.arange(0, 60, 10)


def result_of(**series: list[float]) -> Result:
    """Return a result with these losses, in an order that is not that of its steps."""
    losses = over_steps(STEPS, **{"train_loss": 0.0, "restricted_loss": 0.0} | series)
    return planted(Run(modular(), {}), {"modular_addition": losses.isel(step=[3, 5, 0, 2, 4, 1])})


@pytest.mark.parametrize(
    ("loss", "width"),
    [
        ([10, 9.5, 9, 5, 0.9, 0.1], 20),  # from step 20 to step 40
        ([5, 10, 9, 1.1, 0.9, 10], 20),  # what comes after the fall does not count
        ([10, 0.1, 0.1, 0.1, 0.1, 0.1], 10),
        ([10, 8, 6, 4, 2, 1], 50),  # a tenth is not below a tenth: up to the last step
        ([10, 10, 10, 10, 10, 10], 10),  # a lower bound, of one interval
        ([0.1, 5, 6, 7, 8, 9], 10),  # nothing is above nine tenths before it
        ([np.nan, 10, 9, 5, 0.1, np.nan], 20),
        ([0, 0, 0, 0, 0, 0], np.nan),
        ([np.nan] * 6, np.nan),
    ],
)
def test_the_width_of_a_fall_is_from_nine_tenths_to_one_tenth(loss, width):
    found = fall_width(over_steps(STEPS, loss=loss)["loss"])
    assert found == pytest.approx(width, nan_ok=True)


def test_the_probability_is_the_median_of_the_last_five_steps():
    assert probability(result_of(test_loss=[9, 5, 0.2, 0.1, 0.3, 7])) == pytest.approx(np.exp(-0.3))
    last = last_value(result_of(train_loss=[9, 1, 5, 2, 4, 3]), "modular_addition", "train_loss")
    assert last == 3


@pytest.mark.parametrize(
    ("loss", "step"),
    [
        ([5, 0.05, 5, 0.05, 0.05, 0.05], 30),
        ([5, 5, 5, 5, 5, 0.09], 50),
        ([5, 5, 0.05, 0.05, 0.05, 0.1], None),
        ([5, 5, 0.05, 0.05, 0.05, np.nan], None),
    ],
)
def test_a_run_generalises_where_its_test_loss_stays_below_a_tenth(loss, step):
    assert generalised_at(result_of(test_loss=loss)) == step


Curves = Mapping[str, tuple[tuple[float, float], ...]]

# Places (step, value) between which each number is a line: memorised at 100, formed at 840,
# generalised at 900; restricted loss falls from 300 to 700.
GROKKED: Curves = {
    "train_loss": ((80, 4), (100, 0)),
    "test_loss": ((780, 5), (900, 0)),
    "restricted_loss": ((300, 5), (700, 0)),
    "excluded_loss": ((0, 4), (100, 1), (860, 3), (1000, 0)),
    "sum_of_squares": ((0, 10), (100, 40), (860, 60), (900, 20), (1000, 90)),
}
# Memorised at 600, after which restricted loss falls last, and abruptly.
OPPOSITE = GROKKED | {
    "train_loss": ((580, 4), (600, 0)),
    "restricted_loss": ((940, 5), (960, 0)),
    "excluded_loss": ((0, 1), (600, 4), (860, 1), (1000, 9)),
    "sum_of_squares": ((0, 90), (860, 30), (900, 40), (1000, 10)),
}
NEVER = GROKKED | {"test_loss": ((0, 5), (1500, 3))}


def grokking_rows(run: Run, curves: Callable[[int], Curves]) -> Groups:
    steps = saved(run)
    values = {
        name: np.interp(steps, *zip(*places, strict=True)) + abs(noise(run))
        for name, places in curves(run.training.seed).items()
    }
    norm = values.pop("sum_of_squares")
    return {
        "modular_addition": over_steps(steps, **values),
        "weight_norm": over_steps(steps, sum_of_squares=norm),
    }


def grokked(curves: Callable[[int], Curves]) -> PlantedRuns:
    return PlantedRuns(partial(grokking_rows, curves=curves))


@pytest.mark.parametrize(
    ("curves", "expected"),
    [
        (GROKKED, [HOLDS] * 6),
        (OPPOSITE, [HOLDS] + [DOES_NOT_HOLD] * 5),
        (NEVER, [DOES_NOT_HOLD] + [UNDECIDED] * 5),
        (OPPOSITE | {"test_loss": NEVER["test_loss"]}, [DOES_NOT_HOLD] + [UNDECIDED] * 5),
    ],
)
def test_grokking_is_judged_by_its_curves(curves, expected):
    assert verdicts(grokking.EXPERIMENT, grokked(lambda seed: curves)) == expected


def test_one_run_that_never_generalises_leaves_all_but_the_first_undecided():
    found = findings(grokking.EXPERIMENT, grokked(lambda seed: NEVER if seed == 1 else GROKKED))
    assert {one.verdict for one in found.values()} == {UNDECIDED}
    assert all(one.found.endswith("undefined for seed 1") for one in list(found.values())[1:])


def test_effects_of_grokking_by_hand():
    generalises, *others = findings(grokking.EXPERIMENT, grokked(lambda seed: GROKKED)).values()
    assert generalises.effect.by_seed[0] == pytest.approx(1.0)
    # Saved steps: test loss is at most half from 860 on, at least 9/10 up to 780, and below a tenth
    # of 5 from 900 on; restricted loss from 340 to 680, and below 0.1 from 700 on.
    by_hand = [900 / 100, 700 / 900, 340 / 120, 3.0 - 1.0, 20 / 60]
    assert [one.effect.by_seed[0] for one in others] == pytest.approx(by_hand)


def test_restricted_loss_that_does_not_fall_has_fallen_at_the_last_step():
    curves = GROKKED | {"restricted_loss": ((0, 5), (1500, 5))}
    found = findings(grokking.EXPERIMENT, grokked(lambda seed: curves))
    assert found["restricted-ahead"].effect.by_seed[0] == pytest.approx(1500 / 900)


def optimizer_rows(
    run: Run, decayed: Mapping[int, float | None], undecayed: float, sgd: float
) -> Groups:
    """Return rows that generalise: by decay at a step per seed, without it at one, by SGD if < 0.1.

    undecayed: before it the test loss is 1 and 1 / 1000 of the step. sgd: the loss at the end.
    """
    optimizer, steps = run.training.optimizer, saved(run)
    if optimizer.kind == "sgd":
        assert optimizer.weight_decay > 0
        loss = np.full(len(steps), sgd + abs(noise(run)))
    elif optimizer.weight_decay:
        at = decayed[run.training.seed]
        loss = np.where((steps >= at) if at is not None else False, 0.01, 5.0)
    else:
        loss = np.where(steps >= undecayed, 0.01, 1 + steps / 1000)
    return {"modular_addition": over_steps(steps, test_loss=loss, train_loss=0, restricted_loss=0)}


DECAYED = {0: 500, 1: 600, 2: 700}


@pytest.mark.parametrize(
    ("decayed", "undecayed", "sgd", "expected"),
    [
        (DECAYED, 800, 0.01, [HOLDS, HOLDS]),  # it generalises later, and counts as not by then
        (DECAYED, 400, 1.0, [DOES_NOT_HOLD, DOES_NOT_HOLD]),
        (DECAYED, 650, 0.01, [UNDECIDED, HOLDS]),
        (DECAYED | {1: None}, 800, 0.01, [UNDECIDED, HOLDS]),
        (dict.fromkeys(range(3)), 400, 0.01, [UNDECIDED, HOLDS]),
    ],
)
def test_runs_without_decay_are_judged_at_the_step_of_those_with_it(
    decayed, undecayed, sgd, expected
):
    rows = partial(optimizer_rows, decayed=decayed, undecayed=undecayed, sgd=sgd)
    assert verdicts(optimizers.EXPERIMENT, PlantedRuns(rows)) == expected


def test_what_is_known_by_then_by_hand():
    rows = partial(optimizer_rows, decayed=DECAYED, undecayed=800, sgd=0.01)
    found = findings(optimizers.EXPERIMENT, PlantedRuns(rows))["no-decay"]
    assert list(found.effect.by_seed.values()) == pytest.approx(np.exp([-1.5, -1.6, -1.7]))
    assert found.found == "at steps 500, 600, 700"


def frequency_rows(run: Run, norm: list[float], keys_above: float) -> Groups:
    """Return rows of five frequencies, of which 2 and 4 are key, that differ at the end."""
    last = run.training.steps
    assert run.select == {"steps": (0, last)}
    spread = np.array([norm, np.negative(norm)]) + noise(run)
    norms = xr.Dataset(
        {"embedding_norm": (("frequency", "step"), spread.T)},
        {"step": [0, last], "frequency": np.arange(1, 6)},
        {"reference_values": {"key_frequencies": [2, 4]}},
    )
    above = [keys_above + noise(run), 0.5]
    return {
        "modular_addition": norms.sortby("step", ascending=False),
        "lottery_ticket": over_steps([0, last], keys_above_others=above),
    }


@pytest.mark.parametrize(
    ("norm", "keys_above", "share", "expected"),
    [
        ([1, 4, 2, 5, 3], 0.8, 1, [HOLDS, HOLDS]),
        ([5, 2, 4, 1, 3], 0.2, 0, [DOES_NOT_HOLD, DOES_NOT_HOLD]),
        ([1, 5, 2, 3, 4], 0.2, 5 / 6, [HOLDS, DOES_NOT_HOLD]),
        ([1, 2, 3, 2, 1], 0.8, 4 / 6, [HOLDS, HOLDS]),
        ([3, 1, 4, 5, 2], 0.5, 3 / 6, [DOES_NOT_HOLD, UNDECIDED]),  # the edge is outside
    ],
)
def test_keys_are_compared_with_other_frequencies_at_step_0(norm, keys_above, share, expected):
    runs = PlantedRuns(partial(frequency_rows, norm=norm, keys_above=keys_above))
    found = findings(initial_frequencies.EXPERIMENT, runs)
    assert [one.verdict for one in found.values()] == expected
    by_norm, by_direction = (one.effect.by_seed for one in found.values())
    assert list(by_norm.values()) == pytest.approx([share] * 5)
    assert by_direction[0] == pytest.approx(keys_above)


def nine_terms_rows(run: Run, losses: tuple[float, float, float, float]) -> Groups:
    names = ("unchanged_test", "test", "two_directions_test", "other_frequency_test")
    # The first of two steps is that of a model that knows nothing.
    series = {name: [9.0, loss + abs(noise(run))] for name, loss in zip(names, losses, strict=True)}
    return {"nine_terms": over_steps([0, run.training.steps], **series)}


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ((0.02, 0.05, 0.1, 3.0), [HOLDS, HOLDS, HOLDS]),
        ((0.02, 1.0, 2.0, 0.5), [DOES_NOT_HOLD] * 3),
        ((0.02, 1.0, 0.1, 3.0), [DOES_NOT_HOLD, HOLDS, HOLDS]),
        ((0.02, 0.05, 1.0, 3.0), [HOLDS, DOES_NOT_HOLD, HOLDS]),
        ((0.02, 0.05, 0.1, 5.0), [HOLDS, HOLDS, HOLDS]),  # worse than guessing
        ((0.1, 0.1, 0.1, 3.0), [UNDECIDED] * 3),  # the test pairs are not known
    ],
)
def test_nine_terms_are_judged_by_what_is_left_of_what_is_known(losses, expected):
    runs = PlantedRuns(partial(nine_terms_rows, losses=losses))
    assert verdicts(nine_terms.EXPERIMENT, runs) == expected


def test_the_share_kept_by_hand():
    guessing = np.log(41)
    losses = (0.0, guessing / 10, guessing / 4, guessing)
    found = findings(
        nine_terms.EXPERIMENT, PlantedRuns(partial(nine_terms_rows, losses=losses))
    ).values()
    assert [one.effect.by_seed[0] for one in found] == pytest.approx([0.9, 0.75, 0.0])


# Of each operation: the test loss, and the share that its waves or characters explain.
KNOWN = {"subtract": (0.01, 0.9), "multiply": (0.01, 0.8), "add": (0.01, 0.9),
         "x2_y2": (0.01, 0.0), "compose": (0.01, 0.9)}  # fmt: skip
CLAIMS = [claim.name for claim in other_operations.EXPERIMENT.claims]


def operation_rows(run: Run, known: Mapping[str, tuple[float, float]], undefined: bool) -> Groups:
    task, steps = run.training.task, saved(run)
    assert task.split_generator == ("orbits" if task.operation in ("add", "x2_y2") else "numpy"), (
        task.split_generator
    )
    loss, share = known[task.operation]
    losses = {"test_loss": np.where(steps < 500, 5, loss + abs(noise(run)))}
    share += noise(run)
    if task.operation != "compose":
        explained = np.where(steps < 500, 0.4, share)
        return {"modular_addition": over_steps(steps, logit_variance_explained=explained, **losses)}
    # Of the trivial one nothing counts, whatever is stored.
    of_each = np.array([[5.0, share / 2, np.nan if undefined else share / 2]] * len(steps))
    return {
        "modular_addition": over_steps(steps, **losses),
        "permutation_characters": xr.Dataset(
            {"variance_explained": (("step", "irreducible"), of_each)}, {"step": steps}
        ),
    }


def judged(
    known: Mapping[str, tuple[float, float]], quick: bool = False, undefined: bool = False
) -> dict[str, str]:
    rows = partial(operation_rows, known=known, undefined=undefined)
    found = findings(other_operations.EXPERIMENT, PlantedRuns(rows, quick))
    return {name: one.verdict for name, one in found.items()}


def test_other_operations_that_are_known_and_explained_are_found_to_be():
    assert judged(KNOWN) == dict.fromkeys(CLAIMS, HOLDS)


@pytest.mark.parametrize(
    ("operation", "generalises", "explained"),
    [
        ("subtract", "subtract", "subtract-waves"),
        ("multiply", "multiply", "multiply-waves"),
        ("add", "add-orbits", None),
        ("x2_y2", "squares", None),
        ("compose", "permutations", "permutation-characters"),
    ],
)
def test_each_operation_is_judged_by_its_own_runs(operation, generalises, explained):
    unknown = judged(KNOWN | {operation: (2.0, KNOWN[operation][1])})
    assert unknown == dict.fromkeys(CLAIMS, HOLDS) | {generalises: DOES_NOT_HOLD}
    unexplained = judged(KNOWN | {operation: (0.01, 0.3)})
    refuted = {} if explained is None else {explained: DOES_NOT_HOLD}
    assert unexplained == dict.fromkeys(CLAIMS, HOLDS) | refuted


def test_characters_are_undecided_where_one_is_undefined_and_in_quick_runs():
    characters, permutations = "permutation-characters", "permutations"
    assert judged(KNOWN, undefined=True)[characters] == UNDECIDED
    quick = judged(KNOWN, quick=True)
    assert (quick.pop(characters), quick.pop(permutations)) == (UNDECIDED, UNDECIDED)
    assert set(quick.values()) == {HOLDS}
