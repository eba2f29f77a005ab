"""Findings on series made by hand; the expected sentences follow from the series."""

import re

import numpy as np
import pytest
import xarray as xr

from pipeline.findings.heads import Heads, onsets, strongest
from pipeline.findings.sentences import findings_of
from tests.pipeline.report import fake

STEPS = np.array([0, 10, 20, 30, 40])


def heads(induction, previous=None, null=0.0):
    """Return head scores of one layer; rows are heads, columns the steps of STEPS."""
    values = np.array(induction, float).T[:, None, :]
    before = np.zeros_like(values) if previous is None else np.array(previous, float).T[:, None, :]
    arrays = {"induction": (fake.HEAD, values), "previous_token": (fake.HEAD, before)}
    arrays |= fake.nulls(STEPS, *values.shape[1:], null)
    return fake.group("head_scores", arrays, STEPS)


def losses(score, mean=None, **attributes):
    arrays = {
        "in_context_score": ("step", np.array(score, float)),
        "mean": ("step", np.array(score if mean is None else mean, float)),
    }
    given = {"early_token": 10, "late_token": 60}
    return fake.group("token_loss", arrays, STEPS, parameters=given, **attributes)


def grokking(train, test, restricted, excluded, **attributes):
    given = {"train": train, "test": test, "restricted": restricted, "excluded": excluded}
    arrays = {f"{name}_loss": ("step", np.array(v, float)) for name, v in given.items()}
    return fake.group("modular_addition", arrays, STEPS, **attributes)


def said(**groups: xr.Dataset) -> str:
    return "\n".join(findings_of(fake.run_of(**groups)))


def test_formation_lies_between_the_last_faint_and_first_strong_step():
    text = said(head_scores=heads([[0.1, 0.1, 0.2, 0.7, 0.9], [0.05, 0.05, 0.1, 0.1, 0.65]]))
    assert (
        "formed between steps 10 and 30: the highest excess of any head's prefix-matching" in text
    )
    assert "keys that match nothing, as far away) went from 0.10 to 0.70" in text
    assert (
        "at least 0.3 above its null, spikes aside, 2 of 2: L0H0 from step 30; L0H1 from step 40."
        in text
    )


def test_formation_starts_a_step_before_if_no_head_was_ever_faint():
    assert "formed between steps 20 and 30" in said(head_scores=heads([[0.2, 0.2, 0.25, 0.7, 0.9]]))


def test_a_score_that_was_high_from_the_start_is_said_to_have_been():
    scores = heads([[0.9, 0.9, 0.9, 0.9, 0.9]])
    assert "existed at the first saved step (0)" in said(head_scores=scores)


def test_without_an_induction_head_the_highest_score_is_given():
    text = said(head_scores=heads([[0.1, 0.1, 0.2, 0.28, 0.2], [0.1] * 5]))
    assert "No induction head formed by step 40: no head's prefix-matching score exceeded" in text
    assert "by 0.3 (the most was 0.28, L0H0 at step 30)" in text
    assert "Induction heads formed" not in text and "mimics" not in text


def test_a_score_that_is_as_high_on_its_null_is_no_induction_head():
    text = said(head_scores=heads([[0.1, 0.3, 0.5, 0.7, 0.98]], null=np.linspace(0, 0.97, 5)))
    assert "No induction head formed by step 40" in text
    assert "L0H0 has a prefix-matching score of 0.98 at step 40, but 0.97 at keys that" in text
    assert "mimics an induction head" in text


def test_the_threshold_of_the_labels_decides_for_the_findings():
    scores = heads([[0.1, 0.1, 0.2, 0.4, 0.7]])
    of_steps = {"sink": ("step", np.zeros(len(STEPS)))}
    labels = fake.group("head_labels", of_steps, STEPS, parameters={"threshold": 0.5})
    assert "at least 0.3 above its null, spikes aside, 1 of 1: L0H0 from step 30" in said(
        head_scores=scores
    )
    text = said(head_scores=scores, head_labels=labels)
    assert "at least 0.5 above its null, spikes aside, 1 of 1: L0H0 from step 40" in text


def test_scores_stored_without_nulls_say_so_and_claim_nothing():
    scores = heads([[0.1, 0.1, 0.9, 0.9, 0.9]])
    old = scores.drop_vars([name for name in scores if str(name).endswith("_null")])
    text = said(head_scores=old, token_loss=losses([0, 0, -1, -1, -1]))
    assert "were stored without" in text and "computed again" in text
    assert "formed between" not in text and "L0H0" not in text


def test_without_a_null_nothing_is_claimed_of_induction_heads():
    text = said(head_scores=heads([[0.9] * 5], [[0.9] * 5], null=np.full(5, np.nan)))
    assert "It is unknown whether induction heads formed" in text
    assert "formed between" not in text and "were there" not in text


def test_a_step_that_is_not_finite_is_named_and_not_judged():
    nan = float("nan")
    text = said(head_scores=heads([[0, 0.1, nan, 0.1, 0.9], [0, 0.9, 0.9, 0.9, 0.9]]))
    assert "Head scores are not finite at step 20, left out of the findings on heads." in text
    assert "2 of 2: L0H1 from step 10; L0H0 from step 40" in text


def test_a_head_that_faded_is_listed_with_its_last_score():
    text = said(head_scores=heads([[0.1, 0.9, 0.8, 0.4, 0.21]]))
    assert "1 of 1: L0H0 (to step 30; 0.21 at the end) from step 10." in text
    text = said(head_scores=heads([[0.1, 0.9, 0.8, 0.2, 0.21]]))
    assert "No induction head formed by step 40" in text  # two checkpoints are no stretch


def test_heads_of_one_step_are_listed_together():
    early, late = [0, 0.7, 0.7, 0.7, 0.7], [0, 0, 0, 0.7, 0.7]
    text = said(head_scores=heads([early, late, early]))
    assert "3 of 3: L0H0 and L0H2 from step 10; L0H1 from step 30." in text


def test_a_long_list_of_heads_is_cut_and_counted():
    text = said(head_scores=heads([[0, 0.7, 0.7, 0.7, 0.7]] * 11))
    assert "11 of 11: L0H0, L0H1, " in text
    assert "L0H6 and L0H7 from step 10; and 3 more." in text


def test_previous_token_heads_are_dated_against_induction_heads():
    text = said(head_scores=heads([[0, 0, 0, 0.7, 0.7]], [[0, 0.7, 0.7, 0.7, 0.7]]))
    assert "L0H0 from step 10; the first 20 steps before the first induction head." in text
    text = said(head_scores=heads([[0, 0, 0, 0.7, 0.7]], [[0, 0, 0, 0, 0.7]]))
    assert "L0H0 from step 40; the first 10 steps after the first induction head." in text
    text = said(head_scores=heads([[0, 0, 0, 0.7, 0.7]], [[0, 0, 0, 0.7, 0.7]]))
    assert "the first at the same saved step as the first induction head." in text


def test_no_previous_token_head_is_said():
    text = said(head_scores=heads([[0] * 5], [[0, 0.2, 0.25, 0.1, 0]]))
    assert "No previous-token head by step 40" in text
    assert "by 0.3 (the most was 0.25, L0H0 at step 20)" in text


def test_few_checkpoints_do_not_tell_whether_a_change_was_sudden():
    text = said(
        head_scores=heads([[0, 0, 0.2, 0.7, 0.7]]), token_loss=losses([0, 0, -0.5, -0.5, -0.6])
    )
    assert "The in-context score (loss at token 60 minus loss at token 10) went from 0 nats" in text
    assert "at step 0 to −0.60 at step 40; whether suddenly cannot be told: 5 checkpoints" in text
    assert "0.70; whether suddenly cannot be told: 5 checkpoints are too few (at least 10" in text


def sigmoid(steps, at, amplitude, seed=0):
    noise = 0.01 * np.random.default_rng(seed).standard_normal(len(steps))
    return amplitude / (1 + np.exp(-40 * np.log10(steps / at))) + noise


LONG = np.arange(20, 2001, 20)


def long_run(heads_at, previous_at, score):
    """Return findings of a run of 100 checkpoints, of one head of each pattern."""
    shape = (len(LONG), 1, 1)
    arrays = {
        "induction": (fake.HEAD, sigmoid(LONG, heads_at, 0.8).reshape(shape)),
        "previous_token": (fake.HEAD, sigmoid(LONG, previous_at, 0.8, 1).reshape(shape)),
        **fake.nulls(LONG, 1, 1),
    }
    given = {"early_token": 10, "late_token": 60}
    of_losses = {"in_context_score": ("step", score), "mean": ("step", score + 4)}
    return said(
        head_scores=fake.group("head_scores", arrays, LONG),
        token_loss=fake.group("token_loss", of_losses, LONG, parameters=given),
    )


def test_sudden_changes_are_dated_by_their_transitions():
    text = long_run(600, 400, sigmoid(LONG, 900, -1.0, 2))
    assert "Induction heads formed suddenly: L0H0's prefix-matching score rose by 0." in text
    assert "to at least 0.3 above its null (the same score at keys that match nothing" in text
    assert re.search(r"rose by 0\.8\d? at step (59\d|60\d) \(90% interval \d+ to \d+; 10 to", text)
    assert re.search(r"first rose suddenly at step (39\d|40\d) .* before the first induction", text)
    score = re.search(
        r"score .* fell suddenly by (\S+) nats at step (\d+) .*, (\d+) steps after", text
    )
    assert score is not None and float(score[1]) == pytest.approx(1, rel=0.05)
    assert int(score[2]) == pytest.approx(900, rel=0.03)
    assert int(score[3]) == pytest.approx(300, rel=0.1)
    assert re.search(r"\(0\.1[78]\d* decades, 90% interval", text)  # log10(900 / 600) = 0.176
    assert "The mean loss fell from" in text and "It fell suddenly by 1.0" in text


def test_changes_at_the_same_step_are_not_put_in_an_order():
    text = long_run(600, 600, sigmoid(LONG, 600, -1.0, 2))
    assert text.count("at the same time as") == 2 and "steps after" not in text


def test_a_smooth_score_is_not_said_to_change_at_a_step():
    text = long_run(600, 600, -0.3 * np.log10(LONG) + sigmoid(LONG, 600, 0.0))
    assert "smoothly, so that no step can be named" in text
    assert "It fell suddenly" not in text and "score (loss at token 60 minus" in text


def test_a_slingshot_is_named_and_moves_no_milestone():
    falls = 4 - sigmoid(LONG, 600, 3.99) * (LONG > 0)
    falls = np.where(LONG > 800, 1e-4, np.maximum(falls, 1e-4))
    falls[80] = 3.0
    rest = {"train": falls, "restricted": falls, "excluded": np.full(len(LONG), 4.0)}
    arrays = {f"{name}_loss": ("step", v) for name, v in (rest | {"test": falls}).items()}
    text = said(modular_addition=fake.group("modular_addition", arrays, LONG))
    line = next(line for line in text.splitlines() if "generalised to the test pairs" in line)
    step = int(re.search(r"by step (\d+)", line)[1].replace(",", ""))
    assert step <= 820
    assert "stays below 0.1 nats from there on, but for spikes at 1 checkpoint" in line
    assert "it fell suddenly at step 60" in line or "it fell suddenly at step 59" in line


def test_a_step_that_is_left_out_for_one_head_dates_no_other():
    """Nothing is said of step 20, at which the second head is NaN: the first counts from 30 on."""
    text = said(head_scores=heads([[0, 0, 0.9, 0.9, 0.9], [0, 0, np.nan, 0.1, 0.1]]))
    assert "not finite at step 20, left out of the findings on heads" in text
    assert "formed between steps 10 and 30" in text and "L0H0 from step 30" in text


def test_a_score_that_never_moved_is_said_not_to_have():
    text = said(token_loss=losses([0.5] * 5))
    assert "(loss at token 60 minus loss at token 10) did not move from 0.50 nats." in text


@pytest.mark.parametrize(
    ("score", "sentence"),
    [
        ([np.nan] * 5, "is not finite at any step."),
        (
            [np.nan, -0.4, *[np.nan] * 3],
            "is −0.40 nats at step 10; the score is not finite at 4 of 5",
        ),
        # 0.4 of 0.5 up to step 30; what is infinite has no part in a range
        ([0, -0.4, -0.5, -0.5, np.inf], "from 0 nats at step 0 to −0.50 at step 30; whether"),
        ([0, 0, 0, 0, 1e-9], "did not move from 0 nats."),
    ],
)
def test_a_score_without_a_course_is_not_given_one(score, sentence):
    text = said(token_loss=losses(score, mean=[4, 3, 2, 2, 1]))
    assert sentence in text


def test_the_score_of_one_checkpoint_has_no_course():
    one = losses([-0.4] * 5).isel(step=[2])
    text = said(token_loss=one)
    assert "is −0.40 nats at step" in text and "in-context score did not move" not in text


def test_a_single_score_or_none_is_not_said_to_move_or_not_to_move():
    nan = float("nan")
    text = said(token_loss=losses([nan, -0.5, nan, nan, nan]))
    assert "is −0.50 nats at step 10; the score is not finite at 4 of 5" in text
    assert "moved" not in text
    text = said(token_loss=losses([nan] * 5))
    assert "at token 10) is not finite at any step." in text and "moved" not in text
    text = said(token_loss=losses([0, -0.5, -0.5, -0.6, nan]))
    assert "(at least 10 are needed); the score is not finite at step 40." in text


def test_what_did_not_form_is_said_up_to_the_last_finite_step():
    nan = float("nan")
    text = said(head_scores=heads([[0, 0, 0, 0, nan], [0.1] * 5], [[0, 0, 0, 0, nan], [0.1] * 5]))
    assert "No induction head formed by step 30" in text
    assert "No previous-token head by step 30" in text and "by step 40" not in text


def test_heads_that_are_never_finite_together_are_not_judged():
    nan = float("nan")
    apart = [[0, 0, nan, nan, nan], [nan, nan, 0, 0, 0]]
    text = said(head_scores=heads(apart, apart))
    assert "It is unknown whether induction heads formed: at no saved step" in text
    assert "It is unknown whether previous-token heads formed" in text


def test_a_missing_measure_is_named_where_a_finding_would_need_it():
    assert "Head scores are not in the store" in said(token_loss=losses([0, 0, -1, -1, -1]))
    assert "Token losses are not in the store" in said(head_scores=heads([[0] * 5]))
    assert "not in the store" not in said(
        head_scores=heads([[0] * 5]), token_loss=losses([0, 0, -1, -1, -1])
    )


def test_heads_that_a_model_does_not_have_are_not_unknown():
    text = said(token_loss=losses([0, 0, -1, -1, -1], attention_heads=0))
    assert "The model has no attention heads, so that none can have formed." in text
    assert "unknown" not in text and "Head scores" not in text


def test_the_mean_loss_is_given_at_both_ends():
    text = said(token_loss=losses([0] * 5, mean=[4.16, 4, 3, 2, 1.234]))
    assert "The mean loss fell from 4.16 nats at step 0 to 1.23 at step 40." in text
    text = said(token_loss=losses([0] * 5, mean=[1, 4, 3, 2, 5]))
    assert "The mean loss rose from 1.00 nats at step 0 to 5.00 at step 40." in text


GROKKED = grokking(
    train=[4, 0.05, 0.01, 0.01, 0.01],
    test=[4, 6, 6, 2, 0.09],
    restricted=[4, 3, 0.08, 0.01, 0.01],
    excluded=[4, 0.6, 2, 10, 9],
    reference_values={"key_frequencies": [5, 11]},
)


def test_memorised_circuit_and_generalised_are_dated_by_crossings():
    text = said(modular_addition=GROKKED)
    assert (
        "memorised the train pairs by step 10: train loss stays below 0.1 nats from there" in text
    )
    assert "Restricted loss stays below 0.1 nats from step 20 on." in text
    assert (
        "generalised to the test pairs by step 40, the last saved step: test loss is 0.090 nats "
        "there, below 0.1." in text
    )
    assert "It generalised 30 steps after it memorised." in text
    assert "Restricted loss leads test loss by 20 steps, 50% of the steps to general" in text
    assert "Excluded loss rose from 0.60 nats at step 10 to 10.00 at step 30, while" in text
    assert "while train loss stayed at or below 0.050." in text
    assert "memorisation to step 10, circuit formation to step 30 and cleanup to step 40." in text
    assert "Key frequencies, from the last checkpoint: 5 and 11." in text


def test_what_did_not_happen_in_grokking_is_said():
    flat = [4, 3, 2, 1, 0.5]
    text = said(modular_addition=grokking(flat, [4] * 5, flat, flat))
    assert "had not memorised the train pairs by step 40: train loss was never below 0.1" in text
    assert "had not generalised to the test pairs by step 40: test loss was never below" in text
    assert "Restricted loss was never below 0.1 nats (lowest: 0.50 at step 40)" in text
    assert "Excluded loss was lowest, 0.50 nats, at step 40, the last saved step." in text
    assert "leads" not in text
    assert "Key frequencies" not in text


def test_restricted_loss_may_trail_or_coincide():
    base = [4, 3, 2, 0.05, 0.01]
    late = [4, 3, 2, 1, 0.05]
    text = said(modular_addition=grokking(base, base, late, base))
    assert "Restricted loss trails test loss by 10 steps, 33% of" in text
    assert "It generalised at the same saved step as it memorised." in text
    text = said(modular_addition=grokking(base, base, base, base))
    assert "Restricted loss and test loss fell below 0.1 nats by the same saved step." in text


def test_losses_that_are_undefined_for_an_operation_are_said_to_be():
    undefined = [float("nan")] * 5
    why = "restricted_loss, excluded_loss: NaN, because no wave gives the answer"
    keys = {"key_frequencies": [1, 2, 3]}  # as rows of earlier versions hold them
    group = grokking(
        [0.01] * 5, [4] * 5, undefined, undefined, undefined=why, reference_values=keys
    )
    text = said(modular_addition=group)
    assert (
        "Restricted loss, excluded loss and key frequencies are undefined: no wave gives the "
        "answer." in text
    )
    assert "Key frequencies" not in text
    assert text.lower().count("excluded") == 1
    assert "finite" not in text


def test_the_peak_of_the_weights_is_given():
    norm = fake.group(
        "weight_norm", {"sum_of_squares": ("step", np.array([5, 9, 8, 7, 6.5]))}, STEPS
    )
    assert "largest at step 10 (9.00) and is 6.50 at step 40." in said(weight_norm=norm)
    norm["sum_of_squares"][:] = [1, 2, 3, 4, 5]
    assert "was largest at the last step: 5.00." in said(weight_norm=norm)


def test_a_sibling_on_another_input_is_told_apart():
    scores = heads([[0, 0, 0, 0, 0.7]])
    lines = findings_of(fake.run_of(**{"head_scores": scores, "head_scores.wiki": scores}))
    assert sum("formed between" in line for line in lines) == 2
    assert sum(line.startswith("On input 'wiki': Induction heads formed") for line in lines) == 1


def test_an_empty_store_and_an_unknown_measure_each_have_their_sentence():
    assert findings_of(fake.run_of()) == ["No measure of any checkpoint is stored yet."]
    other = fake.group("sharpness", {"top": ("step", np.ones(5))}, STEPS)
    assert findings_of(fake.run_of(sharpness=other)) == [
        "No sentence is known for the measures stored here: see the figures."
    ]


def test_one_checkpoint_and_undefined_scores_do_no_harm():
    one = fake.induction_run().isel(step=[0])
    assert any("No induction head formed by step 0" in line for line in findings_of(one))
    nan = heads([[float("nan")] * 5])
    assert "The prefix-matching score is undefined at every step." in said(head_scores=nan)


def test_strongest_and_onsets_pass_over_undefined_heads():
    nan = float("nan")
    scores = heads([[nan] * 5, [0, 0, 0.2, nan, 0.8]])["induction"]
    np.testing.assert_allclose(strongest(scores), [0, 0, 0.2, nan, 0.8])
    both = Heads(heads([[nan] * 5, [0, 0, 0.2, nan, 0.8]]))
    assert [(o.layer, o.head, o.step) for o in onsets(both, "induction")] == [(0, 1, 40)]
