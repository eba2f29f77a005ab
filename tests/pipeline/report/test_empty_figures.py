"""Figures, panels and series without a finite number are left out, and the page says so."""

import numpy as np
import pytest

from pipeline.findings.heads import Heads
from pipeline.report.combined_figures import loss_profiles, losses_and_heads, progress
from pipeline.report.figures import parameter_lines
from pipeline.report.page import run_of
from pipeline.report.sections import sections
from tests.pipeline.report import fake
from tests.pipeline.report.test_page import Page, html_of

NAN = float("nan")
STEPS = np.array([0, 10, 20])


def titles_of(tree):
    return [plate.title for section in sections(tree) for plate in section.plates]


def numbers_in(figure):
    """Return whether each trace of a figure has a finite number."""
    held = [np.asarray(t.z if t.type == "heatmap" else t.y, float) for t in figure.data]
    return [bool(np.isfinite(values).any()) for values in held]


def test_no_figure_is_drawn_of_a_variable_without_a_finite_number():
    """As head_ablation on sequences that do not reach its late token."""
    shape = (3, 2, 4)
    arrays = {
        "mean_loss": (fake.HEAD, np.ones(shape)),
        "in_context_score": (fake.HEAD, np.full(shape, NAN)),
        "drop": ("step", np.array([NAN, np.inf, -np.inf])),
        "by_lag": (("step", "lag"), np.full((3, 5), NAN)),
    }
    tree = fake.run_of(head_ablation=fake.group("head_ablation", arrays, STEPS))
    assert titles_of(tree) == ["Mean loss"]
    page = Page(html_of(tree))
    text = " ".join(page.text.split())
    assert (
        "Not drawn, for no checkpoint has a finite number: in-context score, drop, by lag." in text
    )


def test_a_stored_reason_is_given_in_place_of_a_figure():
    arrays = {"sharp": ("step", np.full(3, NAN)), "flat": ("step", np.ones(3))}
    group = fake.group("copying", arrays, STEPS, undefined="sharp: NaN, because of X")
    tree = fake.run_of(copying=group)
    assert titles_of(tree) == ["Flat"]
    text = Page(html_of(tree)).text
    assert "Undefined for this run: sharp: NaN, because of X." in text
    assert "Not drawn" not in text


@pytest.mark.parametrize("name", ["mean", "in_context_score", "mean_by_position"])
def test_a_loss_without_a_finite_number_has_no_panel_and_no_caption(name):
    group = fake.token_loss()
    group[name][:] = NAN
    tree = fake.run_of(token_loss=group)
    figures = [plot for one in sections(tree) for plate in one.plates for plot in plate.plots]
    assert all(all(numbers_in(figure)) for figure in figures)
    captions = " ".join(plate.caption for one in sections(tree) for plate in one.plates)
    assert f"Meaning of {name}." not in captions
    assert ("Band:" in captions) == (name != "in_context_score")


def test_losses_without_any_finite_number_have_no_figure():
    group = fake.token_loss()
    for name in group.data_vars:
        group[name][:] = NAN
    assert losses_and_heads(group, Heads(fake.head_scores())) is None
    assert titles_of(fake.run_of(token_loss=group)) == []
    assert "Figure 1" not in Page(html_of(fake.run_of(token_loss=group))).text


def test_scores_without_a_finite_number_have_no_panel():
    losses, scores = fake.token_loss(STEPS), fake.head_scores(STEPS)
    scores["previous_token"][:] = NAN
    figure = losses_and_heads(losses, Heads(scores))
    assert figure is not None
    assert [trace.name for trace in figure.data] == ["mean loss", "in-context score", "induction"]
    scores["induction"][:] = NAN
    tree = fake.run_of(token_loss=losses, head_scores=scores)
    assert "any head's score exceeds its null" not in Page(html_of(tree)).text


@pytest.mark.parametrize("which", ["losses", "norms", "shares"])
def test_a_grokking_figure_without_a_finite_number_is_left_out(which):
    names, title = {
        "losses": (["train_loss", "test_loss", "restricted_loss", "excluded_loss"], "Progress"),
        "norms": (["embedding_norm"], "Frequencies"),
        "shares": (["gini_embedding", "gini_neuron_logit", "logit_variance_explained"], "Sparsity"),
    }[which]
    group = fake.modular_addition()
    for name in names:
        group[name][:] = NAN
    found = titles_of(fake.run_of(modular_addition=group))
    assert not any(one.startswith(title) for one in found)
    assert found


def test_profiles_leave_out_a_checkpoint_without_a_finite_loss():
    by_position = fake.token_loss(STEPS)["mean_by_position"]
    by_position[1] = NAN
    assert [trace.name for trace in loss_profiles(by_position).data] == ["step 0", "step 20"]


def test_progress_draws_one_non_finite_step_as_a_gap():
    group = fake.modular_addition()
    group["test_loss"][-1] = NAN
    figure = progress(group)
    assert all(numbers_in(figure))
    assert not any("generalised" in a.text for a in figure.layout.annotations)


def test_parameters_are_ordered_by_their_last_finite_value():
    values = fake.weight_norm(STEPS, ["a", "b", "c", "d"])["by_parameter"]
    values[:] = [[1, 5, 3, NAN], [1, 6, 3, NAN], [NAN, NAN, 7, np.inf]]
    figure, note = parameter_lines(values, "norm")
    assert [trace.name for trace in reversed(figure.data)] == ["c", "b", "a"]
    assert note == "Not drawn: 1 of 4, which have no finite value."


# Stores at the edge


def test_a_model_without_layers_has_a_page():
    scores = fake.head_scores(STEPS, layers=1).isel(layer=slice(0, 0))
    tree = fake.run_of(token_loss=fake.token_loss(STEPS), head_scores=scores)
    page = Page(html_of(tree))
    assert "The model has no attention heads" in page.text
    assert "highest score of any head" not in page.text
    assert titles_of(tree)[0] == "What happened when"
    assert "Induction" not in titles_of(tree)


def test_one_checkpoint_has_a_page_that_speaks_of_one_step():
    tree = fake.run_of(modular_addition=fake.modular_addition(np.array([1500])))
    page = Page(html_of(tree))
    assert "1 checkpoint · step 1,500" in page.text
    assert "1,500 to 1,500" not in page.text


def test_everything_undefined_and_one_bad_step_have_pages():
    for bad in ([0, 1, 2], [2]):
        groups = {
            "token_loss": fake.token_loss(STEPS),
            "head_scores": fake.head_scores(STEPS),
            "modular_addition": fake.modular_addition(STEPS),
            "weight_norm": fake.weight_norm(STEPS),
        }
        for group in groups.values():
            for name in group.data_vars:
                group[name][bad] = NAN
        run = run_of("x.zarr", fake.run_of(**groups))
        figures = [plot for one in run.sections for plate in one.plates for plot in plate.plots]
        assert bool(figures) == (bad == [2])
        assert any("finite" in sentence and "20" in sentence for sentence in run.findings) or (
            len(bad) == 3 and any("at any step" in sentence for sentence in run.findings)
        )


def test_steps_that_select_leaves_out_are_not_called_missing():
    whole = fake.weight_norm(STEPS)
    some = fake.group("sharpness", {"top": ("step", np.ones(1))}, STEPS[:1], selected_steps=[0, 20])
    run = run_of("x.zarr", fake.run_of(weight_norm=whole, sharpness=some))
    (sharpness, norms) = run.provenance
    assert (sharpness["not selected"], sharpness["missing"]) == ("1", "20")
    assert (norms["not selected"], norms["missing"]) == ("none", "none")
