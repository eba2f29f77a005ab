"""Runs with gaps: several inputs, few steps with numbers, no rows; and commands of figures."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.query.side_by_side import events_of_runs
from pipeline.report.site import method
from pipeline.report.site.blocks import Page
from pipeline.report.site.composition.data import composition_of
from pipeline.report.site.composition.page import composition_page
from pipeline.report.site.composition.partners import partners
from pipeline.report.site.head.attention import attention_figure, patterns_of
from pipeline.report.site.heads import Head, heads_in
from pipeline.report.site.losses.curves import age_edges
from pipeline.report.site.losses.page import losses_page
from pipeline.report.site.measures import others_page, progress_page
from pipeline.report.site.run_data import Run, opened
from pipeline.report.site.scores import scores_of
from pipeline.report.site.several.curves import curves
from pipeline.report.site.several.page import index_page
from pipeline.report.site.several.sets import sets_in
from pipeline.report.site.specs import Source, together
from tests.pipeline.report import fake
from tests.pipeline.report.site import pages, stores

STEPS = np.arange(0, 1000, 100)


def run_of(tmp_path, name="run", **groups) -> Run:
    return opened({name: stores.stored(str(tmp_path / f"{name}.zarr"), STEPS, **groups)})[0]


def figures(page: Page | None) -> dict:
    assert page is not None
    return {one.id: one for one in page.figures}


def small_losses(**attributes):
    return fake.token_loss(STEPS, length=16, **attributes).drop_vars("loss")


def undefined_at(values, places):
    """Return a variable with NaN at some steps."""
    made = values.values.astype(float)
    made[places] = np.nan
    return values.copy(data=made.astype(values.dtype))


def test_a_second_input_is_drawn_or_left_out_with_a_reason(tmp_path):
    label = np.zeros((len(STEPS), 2, 4), "f4")
    labels = fake.group("head_labels", {"induction": (fake.HEAD, label)}, STEPS)
    groups = {"token_loss": small_losses(), "token_loss.text": small_losses(input="text"),
              "head_labels": labels, "head_labels.text": labels,
              "composition": stores.composition(STEPS), "composition.text":
              stores.composition(STEPS)}  # fmt: skip
    run = run_of(tmp_path, **groups)
    drawn = figures(others_page(run))
    assert set(drawn) == {"token_loss-text-in_context_score", "token_loss-text-mean_by_position"}
    assert {one["of"] for one in drawn["token_loss-text-in_context_score"].spec["series"]} == {
        "token_loss.text/mean", "token_loss.text/in_context_score"}  # fmt: skip
    said = run.said_left_out()
    assert "induction of head labels on input text (the labels are those of the first" in said
    assert "of composition on input text (more dimensions" in said
    assert not any(name.startswith(("token_loss/", "head_labels/")) for name in run.left_out)


def test_two_inputs_of_modular_addition_have_figures_of_different_names(tmp_path):
    made = fake.modular_addition(STEPS)
    run = run_of(tmp_path, modular_addition=made, **{"modular_addition.other": made})
    ids = [one.id for one in progress_page(run).figures]
    assert len(ids) == len(set(ids))
    assert {"progress-strips", "progress-strips-other"} <= set(ids)


def test_composition_that_ends_without_numbers_is_drawn_before(tmp_path):
    rows = stores.composition(STEPS)
    gaps = [3, 9]
    for name in [str(name) for name in rows.data_vars]:
        rows[name] = undefined_at(rows[name], gaps)
    run = run_of(tmp_path, composition=rows)
    found = composition_of(run)
    assert found.steps == [step for step in STEPS if step not in STEPS[gaps]]
    assert not run.left_out
    best = partners(found)["L1H0"].reads[0]
    at = {"step": 800, "layer_to": 1, "head_to": 0, "layer_from": 0}
    assert best.value == max(float(rows[path].sel(at).max()) for path in "kqv")
    edges = figures(composition_page(run, found, []))["composition-graph"].spec["frames"]["edges"]
    for one in edges[-1]:  # exactly as stored
        at["head_to"], at["head_from"] = int(one["to"][-1]), int(one["from"][-1])
        assert np.float32(one["value"]) == rows[one["by"]].sel(at).values
    assert len(edges) == 8 and edges[-1]


def test_a_path_without_numbers_at_the_end_is_undefined_and_not_constant(tmp_path):
    rows = stores.composition(STEPS)
    rows["k"] = undefined_at(rows["k"], [9])
    run = run_of(tmp_path, composition=rows)
    assert composition_of(run).paths == ("q", "v")
    assert run.said_left_out() == "k of composition (undefined at step 900)"


def test_one_rule_says_at_how_many_checkpoints_numbers_are_drawn(tmp_path):
    run = run_of(
        tmp_path, composition=stores.composition(STEPS[::3]), weight_norm=fake.weight_norm(STEPS),
        attention_patterns=stores.attention(STEPS[::5]),
    )  # fmt: skip
    figure = figures(composition_page(run, composition_of(run), []))["composition-k"]
    assert figure.note.endswith("; drawn at 4 of 10 checkpoints.")
    assert figure.spec["frames"]["total"] == 10
    [found] = patterns_of(run)
    text = attention_figure(run, found, Head(0, 0))
    assert text.note.endswith("; drawn at 2 of 10 checkpoints.")
    assert text.spec["texts"][0]["frames"]["total"] == 10
    assert run.said_drawn(10, 10) == ""
    assert run.said_drawn(3, 4).endswith("3 of 10 checkpoints, evenly spaced in log(1 + step)")


def test_attention_is_read_at_the_steps_that_are_drawn_only(tmp_path, monkeypatch):
    rows = stores.attention(STEPS)
    monkeypatch.setattr("pipeline.report.site.head.attention.kept_indices",
                        lambda steps, most: np.array([0, 9]))  # fmt: skip
    rows["attention"] = undefined_at(rows["attention"], [0, 9])
    run = run_of(tmp_path, attention_patterns=rows)
    assert patterns_of(run) == []
    assert "(undefined at the checkpoints that would be drawn)" in run.said_left_out()


@pytest.mark.parametrize("most", [2, 200])
def test_matrices_draw_the_steps_that_have_numbers(tmp_path, monkeypatch, most):
    monkeypatch.setattr("pipeline.report.site.measures.MOST_STEPS", most)
    monkeypatch.setattr("pipeline.report.site.losses.page.MOST_CELLS", most)
    norms, losses = fake.weight_norm(STEPS), small_losses()
    gaps = [i for i in range(10) if i not in (4, 6)]
    norms["by_parameter"] = undefined_at(norms["by_parameter"], gaps)
    losses["mean_by_position"] = undefined_at(losses["mean_by_position"], gaps)
    run = run_of(tmp_path, weight_norm=norms, token_loss=losses)
    for figure, values in (
        (figures(others_page(run))["weight_norm-by_parameter"], norms["by_parameter"]),
        (figures(losses_page(run))["loss-matrix"], losses["mean_by_position"]),
    ):
        assert figure.spec["columns"] == ["step 400", "step 600"]
        drawn = pages.numbers(figure.spec["values"]).reshape(-1, 2)
        assert np.allclose(drawn, values.values[[4, 6]].T)
        assert figure.note.endswith("; drawn at 2 of 10 checkpoints.")
    profiles = figures(losses_page(run))["loss-profiles"].spec["series"]
    assert [one["name"] for one in profiles] == ["step 400", "step 600"]


def test_why_a_variable_is_not_drawn(tmp_path):
    losses = small_losses().drop_vars("in_context_score")
    losses["mean"] = losses["mean"].copy(data=np.ones(10))
    losses["mean_by_position"] = losses["mean_by_position"] * np.nan
    losses["mean_by_position"].attrs = small_losses()["mean_by_position"].attrs
    run = run_of(tmp_path, token_loss=losses)
    for name in ("mean", "in_context_score", "mean_by_position"):
        assert not run.says_something("token_loss", name)
    assert list(run.left_out.values()) == ["constant", "not stored", "undefined"]


@pytest.mark.parametrize(
    "ages", [[0.2, 0.9], [1.6, 1.7, 30.0], [0.0, 5.0], [3.0, 3.0], [7.4, 2000.7], [1.0]]
)
def test_every_age_is_in_a_bin(ages):
    edges = age_edges(np.array(ages))
    assert np.histogram(ages, edges)[0].sum() == len(ages)
    assert (np.diff(edges) > 0).all() and (edges == np.round(edges)).all()
    assert edges[0] > min(ages) - 1 and edges[-1] <= max(ages) + 1


def test_stores_without_rows_have_no_events(tmp_path):
    norms = fake.weight_norm(STEPS)
    uris = [stores.stored(str(tmp_path / f"{name}.zarr"), [], weight_norm=norms) for name in "ab"]
    made = events_of_runs(uris)
    assert (made.sizes["event"], made.sizes["run"], made.sizes["set"]) == (0, 2, 1)
    page = index_page(opened(dict(zip("ab", uris, strict=True))))
    assert [section.id for section in page.sections] == ["runs"]
    [table] = page.sections[0].items
    assert [row[0].text for row in table.rows] == ["a", "b"]


def test_every_figure_of_several_runs_has_its_commands(tmp_path):
    runs = [run_of(tmp_path, name, token_loss=small_losses(), head_scores=fake.head_scores(STEPS))
            for name in "ab"]  # fmt: skip
    by_id = {one.id: one for one in curves(sets_in(runs))}
    for name in ("token_loss-mean", "token_loss-in_context_score", "induction"):
        spec = by_id[f"runs-{name}"].spec
        address = {"induction": "head_scores/induction"}.get(name, name.replace("-", "/", 1))
        commands = [f"ontogeny query {run.uri} {address}" for run in runs]
        assert spec["command"] == " && ".join(commands)
        assert all(f"open_run({run.uri!r})" in spec["python"] for run in runs)
    assert ".max(['layer', 'head'])" in by_id["runs-induction"].spec["python"]


def test_lines_for_several_numbers_are_joined_once_each():
    one, other = Source("a", "query a"), Source("b", "query b")
    assert together([one, replace(one)]) == one
    assert together([one, other, one]) == Source("[a, b]", "query a && query b")


def test_heads_and_scores_are_computed_once(tmp_path):
    run = run_of(tmp_path, head_scores=fake.head_scores(STEPS))
    assert run.once(heads_in) is run.once(heads_in)
    assert run.once(scores_of) is not run.once(heads_in)
    assert [one.name for one in run.once(heads_in)] == [one.name for one in heads_in(run)]


def test_long_lists_of_the_audit_say_how_many_more_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(method, "MOST_SAID", 2)
    run = run_of(tmp_path, weight_norm=fake.weight_norm(STEPS))
    run.__dict__["verdict"] = {"checkpoints": 9, "faults": ["a", "b"], "left_out": list("cdef")}
    said = method.checkpoints_page(run).sections[0].items[0].paragraphs
    assert said[1:] == ["a", "b", "Left out: c", "Left out: d",
                        "2 more (left out) are not shown here."]  # fmt: skip
