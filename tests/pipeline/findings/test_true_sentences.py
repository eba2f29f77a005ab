"""Edge cases of sentences: one checkpoint, ties, dips, NaN at either end."""

import re

import numpy as np
import pytest
import xarray as xr

from pipeline.findings.number_format import extreme, non_finite, why_undefined
from pipeline.findings.onsets import _losses as announced
from pipeline.findings.sentences import findings_of
from tests.pipeline.report import fake

NAN, INF = float("nan"), float("inf")
# Words of a comparison between steps, which one checkpoint cannot support.
COMPARING = re.compile(
    r"\b(rose|rise|fell|fall|went|moved|largest|lowest|was first|stays|stayed|passed|leads|trails"
    r"|after|before|phases|from there|never|the last|the first)\b",
    re.IGNORECASE,
)
WAVES = (
    "restricted_loss, excluded_loss, logit_variance_explained: NaN, because for the operation "
    "'multiply' no wave in one linear combination of a and b gives the answer"
)


def steps_of(values) -> np.ndarray:
    return 10 * np.arange(len(values))


def grokking(train, test, restricted=None, excluded=None, **attributes) -> xr.Dataset:
    """Return progress measures at steps 0, 10, 20, …; those not given are constant 3."""
    given = {"train": train, "test": test, "restricted": restricted, "excluded": excluded}
    flat = [3.0] * len(train)
    arrays = {
        f"{name}_loss": ("step", np.array(flat if v is None else v, float))
        for name, v in given.items()
    }
    return fake.group("modular_addition", arrays, steps_of(train), **attributes)


def losses(mean) -> xr.Dataset:
    arrays = {
        "mean": ("step", np.array(mean, float)),
        "in_context_score": ("step", np.linspace(0, -1, len(mean))),
    }
    return fake.group("token_loss", arrays, steps_of(mean))


def norms(total) -> xr.Dataset:
    arrays = {"sum_of_squares": ("step", np.array(total, float))}
    return fake.group("weight_norm", arrays, steps_of(total))


def said(masked=None, **groups: xr.Dataset) -> list[str]:
    tree = fake.run_of(**groups)
    tree.attrs["masked"] = masked or {}
    return findings_of(tree)


def about(words: str, lines: list[str]) -> str:
    """Return the one sentence that contains the words."""
    (line,) = [line for line in lines if words in line]
    return line


# One checkpoint


@pytest.mark.parametrize("value", [0.05, 0.1, 3.0, NAN])
def test_one_checkpoint_compares_nothing_in_grokking(value):
    one = [value]
    keys = {"reference_values": {"key_frequencies": [3]}}
    for line in said(modular_addition=grokking(one, one, one, one, **keys)):
        assert not COMPARING.search(line.replace("from the last checkpoint", "")), line


def test_one_checkpoint_is_said_to_be_the_only_one():
    lines = said(modular_addition=grokking([0.05], [3], [0.05], [2]))
    assert lines == [
        "The model had memorised the train pairs by step 0, the only saved step: train loss is "
        "0.050 nats there, below 0.1.",
        "Restricted loss is 0.050 nats, below 0.1, at step 0, the only saved step.",
        "The model had not generalised to the test pairs by step 0: test loss is 3.00 nats at "
        "step 0, not below 0.1.",
    ]


def test_one_checkpoint_has_a_loss_and_a_norm_and_no_course_of_them():
    assert said(weight_norm=norms([5])) == ["The sum of squares of all weights is 5.00 at step 0."]
    line = about("mean loss", said(token_loss=losses([4.0])))
    assert line == "The mean loss is 4.00 nats at step 0."


# Dips, ties and plateaus


def test_a_dip_that_came_back_is_no_memorisation():
    """0.05 at step 10 and 2 at step 20: memorised at 30, as phases and sweeps have it."""
    lines = said(modular_addition=grokking([4, 0.05, 2, 0.05, 0.01], [4] * 5, [4, 0.05, 2, 2, 2]))
    assert about("memorised the train", lines) == (
        "The model memorised the train pairs by step 30: train loss stays below 0.1 nats from "
        "there on; it was below first at step 10, but did not stay."
    )
    assert about("Restricted", lines) == (
        "Restricted loss was below 0.1 nats first at step 10, but did not stay: it is 2.00 at "
        "step 40."
    )


def test_a_loss_at_the_threshold_is_not_below_it():
    line = about("memorised", said(modular_addition=grokking([4, 0.1, 0.1], [4] * 3)))
    assert "had not memorised the train pairs by step 20: train loss was never below 0.1" in line


def test_what_was_so_at_the_first_step_is_not_dated_later():
    lines = said(modular_addition=grokking([0.01] * 3, [4, 0.01, 0.01], [0.01] * 3))
    assert about("had memorised", lines).startswith(
        "The model had memorised the train pairs by step 0, the first saved step: train loss stays"
    )
    assert about("It generalised", lines) == (
        "It generalised 10 steps after it memorised; the earlier had happened by the first saved "
        "step."
    )
    lines = said(modular_addition=grokking([0.01] * 3, [0.01] * 3, [4, 0.01, 0.01]))
    assert about("trails", lines) == (
        "Restricted loss trails test loss by 10 steps; the earlier had happened by the first "
        "saved step."
    )
    assert "It generalised 0" not in "".join(lines)
    nothing_seen = said(modular_addition=grokking([0.01] * 3, [0.01] * 3, [0.01] * 3))
    assert not any("same saved step" in line or "Phases" in line for line in nothing_seen)


@pytest.mark.parametrize(
    ("excluded", "test", "says"),
    [
        ([3, 1, 0.5], None, "was lowest, 0.50 nats, at step 20, the last saved step."),
        ([2, 2, 2], None, "did not rise after step 0, where it was lowest (2.00 nats)."),
        ([2, 1, 1], None, "did not rise after step 10, where it was lowest (1.00 nats)."),
        ([2, 1, 1.0001], None, "rose by no more than 1.0e−04 nats after step 10, where it was 1"),
        ([2, 1, 5], None, "rose from 1.00 nats at step 10 to 5.00 at step 20, while train loss"),
        # Generalised at step 30: what excluded loss does later is no matter of its lowest value.
        ([4, 1, 5, 6, 1e-9], [9, 9, 9, 0.01, 0.01], "rose from 1.00 nats at step 10 to 6.00 at"),
        ([4, 3, 2, 1, 0.5], [9, 9, 9, 0.01, 0.01],
         "did not rise after step 30, where it was lowest of the steps up to generalisation (1.00"),
    ],
)  # fmt: skip
def test_excluded_loss_rose_only_where_it_did(excluded, test, says):
    length = len(excluded)
    group = grokking([3.0] * length, test or [9.0] * length, excluded=excluded)
    assert says in about("Excluded loss", said(modular_addition=group))


@pytest.mark.parametrize(
    ("total", "says"),
    [
        ([5, 9, 7], "was largest at step 10 (9.00) and is 7.00 at step 20."),
        ([5, 7, 9], "was largest at the last step: 9.00."),
        ([5, 5, 5], "is 5.00 at every step."),
        ([1, 9, 9], "was largest at step 10 (9.00) and is 9.00 at step 20."),
        ([5, 9, NAN], "was largest at the last step where it is finite: 9.00; it is not finite at "
         "step 20."),
        ([9, 5, INF], "was largest at step 0 (9.00) and is 5.00 at step 10; it is not finite at "
         "step 20."),
        ([5, NAN, 5], "is 5.00 at every step where it is finite; it is not finite at step 10."),
        ([NAN] * 3, "is not finite at any step."),
    ],
)  # fmt: skip
def test_the_norm_is_said_as_it_is(total, says):
    line = about("The sum of squares", said(weight_norm=norms(total)))
    assert line == f"The sum of squares of all weights {says}"


@pytest.mark.parametrize(
    ("mean", "says"),
    [
        ([4, 3], "fell from 4.00 nats at step 0 to 3.00 at step 10."),
        ([3, 9, 3], "is 3.00 nats at step 0 and at step 20."),
        ([3, 3.0001], "is 3.00 nats at step 0 and at step 10."),
        ([4, 3.22, NAN], "fell from 4.00 nats at step 0 to 3.22 at step 10; it is not finite at "
         "step 20."),
        ([4, NAN, NAN], "is 4.00 nats at step 0; it is not finite from step 10 on."),
        ([NAN, 4, 5], "rose from 4.00 nats at step 10 to 5.00 at step 20; it is not finite at "
         "step 0."),
        ([4, INF, 3], "fell from 4.00 nats at step 0 to 3.00 at step 20; it is not finite at "
         "step 10."),
        ([NAN] * 2, "is not finite at any step."),
    ],
)  # fmt: skip
def test_the_mean_loss_is_said_as_it_is(mean, says):
    assert about("The mean loss", said(token_loss=losses(mean))) == f"The mean loss {says}"


# Steps that are not finite


def test_non_finite_steps_are_said_by_their_pattern():
    def says(values):
        return non_finite(xr.DataArray(values, dims="step", coords={"step": steps_of(values)}))

    assert says([1.0, 2.0]) == ""
    assert says([1.0, NAN, 2.0]) == "not finite at step 10"
    assert says([1.0, NAN, INF]) == "not finite from step 10 on"
    assert says([NAN, 1.0, -INF]) == "not finite at steps 0 and 20"
    assert says([NAN, 1.0, NAN, 1.0, NAN, 1.0, NAN, 1.0]) == (
        "not finite at 4 of 8 steps, first at step 0"
    )
    assert says([NAN]) == "not finite at step 0"
    assert says([NAN, NAN]) == "not finite at any step"


def test_a_run_that_diverged_after_grokking_has_not_generalised():
    train, test = [4, 0.01, 0.01, 0.01, NAN], [4, 5, 5, 0.01, NAN]
    lines = said(modular_addition=grokking(train, test, excluded=[4, 1, 3, 5, NAN]))
    assert about("memorised", lines) == (
        "The model had not memorised the train pairs by step 40: train loss was below 0.1 nats "
        "first at step 10, but did not stay: it is not finite at step 40."
    )
    assert about("Excluded loss", lines) == (
        "Excluded loss rose from 1.00 nats at step 10 to 5.00 at step 30, while train loss stayed "
        "at or below 0.010; excluded loss is not finite at step 40."
    )
    assert about("Phases", lines) == (
        "Phases are not determined: excluded loss is not finite at step 40 and test loss is not "
        "finite at step 40."
    )


def test_a_gap_in_train_loss_is_said_where_it_is_quoted():
    group = grokking([4, 0.01, NAN, 0.01], [9] * 4, excluded=[4, 1, 3, 5])
    line = about("Excluded loss", said(modular_addition=group))
    assert line.endswith("train loss stayed at or below 0.010, but is not finite at step 20.")


def test_every_group_that_is_not_finite_at_a_step_is_named():
    scores = fake.head_scores(np.array([0, 10, 20]))
    scores["induction"][1, 0, 0] = NAN  # one head of one score
    scores["first_token"][:, 1, 1] = NAN  # at every step: undefined, not broken
    lines = said(head_scores=scores, token_loss=losses([4, NAN, 3]), weight_norm=norms([1, 2, 3]))
    assert about("Not finite", lines) == (
        "Not finite at step 10: head_scores (induction) and token_loss (mean)."
    )


def test_a_variable_that_was_not_asked_for_is_not_called_not_finite():
    """As head_ablation's `together_loss` where no heads are ablated together."""
    arrays = {"loss": ("step", np.ones(3)), "together_loss": ("step", np.full(3, NAN))}
    group = fake.group("head_ablation", arrays, steps_of(range(3)))
    assert not any("inite" in line for line in said(head_ablation=group))
    group["loss"][:] = NAN
    line = about("finite", said(head_ablation=group))
    assert line == "Not finite at any step: head_ablation (loss and together_loss)."


def test_what_is_undefined_by_definition_is_not_called_not_finite():
    undefined = [NAN] * 3
    group = grokking([4, 3, 2], [4] * 3, undefined, undefined, undefined=WAVES,
                     reference_values={"key_frequencies": list(range(1, 12))})  # fmt: skip
    lines = said(modular_addition=group)
    assert about("undefined", lines) == (
        "Restricted loss, excluded loss and key frequencies are undefined: for the operation "
        "'multiply' no wave in one linear combination of a and b gives the answer."
    )
    text = " ".join(lines)
    assert "finite" not in text and "Key frequencies" not in text and "Phases" not in text
    assert why_undefined(group, "train_loss") == ""


def test_left_out_steps_are_named_with_their_reasons():
    reason = "non-finite: model.layers.0.mlp.up_proj.weight holds 3 NaN"
    masked = {1500: reason, 20: "byte-identical: the weights of step 10", 1600: reason}
    lines = said(masked, token_loss=losses([4, 3]))
    assert about("Left out", lines) == (
        "Left out of all findings and figures: step 20 (byte-identical: the weights of step 10) "
        f"and steps 1,500 and 1,600 ({reason})."
    )
    assert said({5: reason})[0].startswith("Left out of all findings and figures: step 5 (non-")


def test_unsorted_steps_give_the_same_sentences():
    group = grokking([4, 0.05, 0.01, 0.01], [4, 9, 2, 0.01], [4, 2, 0.01, 0.01], [4, 1, 3, 5])
    shuffled = group.isel(step=[2, 0, 3, 1])
    assert said(modular_addition=shuffled) == said(modular_addition=group)


def test_extremes_are_those_of_the_finite_values():
    one = xr.DataArray([NAN, 3.0, INF, 1.0, -INF], dims="step", coords={"step": range(5)})
    assert extreme(one, "highest") == (1, 3.0)
    assert extreme(one, "lowest") == (3, 1.0)
    assert extreme(one[2:3], "lowest") is None


# Announcements


def test_announcements_have_the_dates_of_the_findings():
    group = grokking([4, 0.05, 2, 0.05, 0.01], [4, 4, 4, 4, 0.05])
    assert announced(group) == {
        "memorised": "Memorised: train loss stays below 0.1 nats from step 30 on, up to step 40.",
        "generalised": "Generalised: test loss is below 0.1 nats at step 40, the last saved so "
        "far.",
    }
    assert announced(group.isel(step=slice(0, 3))) == {}  # the dip at step 10 has come back


def test_a_model_without_layers_or_heads_has_a_sentence():
    scores = fake.head_scores(np.array([0, 10]), layers=1).isel(layer=slice(0, 0))
    lines = said(head_scores=scores, token_loss=losses([4, 3]))
    assert lines[0] == "The model has no attention heads, so that none can have formed."
