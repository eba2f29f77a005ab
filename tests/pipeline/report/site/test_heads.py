"""The site's words about heads, against planted scores and labels."""

from typing import Any

import numpy as np
import pytest
import xarray as xr

from pipeline.report.site.composition.data import composition_of
from pipeline.report.site.composition.partners import MOST_PARTNERS, partners
from pipeline.report.site.head.facts import facts
from pipeline.report.site.head.figures import main_figure, other_figures
from pipeline.report.site.head.shared import RunHeads
from pipeline.report.site.heads import Head, heads_in, main_scores
from pipeline.report.site.overview import heads_table, overview_page
from pipeline.report.site.run_data import Run
from pipeline.report.site.scores import scores_of
from pipeline.report.site.text import title_of
from tests.pipeline.report import fake
from tests.pipeline.report.site import pages, stores

FEW = np.array([0, 350, 700, 1050, 1400])


class _Unstored(Run):
    """A run without a store, whose heads are not judged vestigial."""

    def vestigial(self, group: str) -> xr.Dataset:
        return xr.Dataset({name: ("series", []) for name in ("vestigial", "formed")})


def run_of(**groups: xr.Dataset) -> Run:
    return _Unstored("run", "run", "run.zarr", fake.run_of(**groups))


def shared_of(run: Run) -> RunHeads:
    group, main = main_scores(run) or ("", None)
    return RunHeads(run, heads_in(run), group, main, scores_of(run), {}, None)


def head_of(shared: RunHeads, name: str) -> Head:
    return next(head for head in shared.heads if head.name == name)


def facts_of(shared: RunHeads, name: str) -> dict[str, str]:
    """Return the facts of a head: value and note, by name."""
    return {one.name: f"{one.value}: {one.note}" for one in facts(shared, head_of(shared, name))}


def row_of(shared: RunHeads, name: str) -> dict[str, str]:
    table = heads_table(shared)
    ids = [column.id for column in table.columns]
    rows = [dict(zip(ids, (str(one.text) for one in row), strict=True)) for row in table.rows]
    return next(row for row in rows if row["head"] == name)


def first_spec(shared: RunHeads) -> dict[str, Any]:
    """Return the specification of the first figure of the overview."""
    return next(iter(overview_page(shared, ()).figures)).spec


def planted(induction: list[float], steps=FEW) -> xr.Dataset:
    """Return head scores of which L1H1 alone has a pattern: induction, with these scores."""
    scores = fake.head_scores(steps)
    for name in ("induction", "previous_token", "duplicate_token", "first_token", "current_token"):
        scores[name][:] = np.random.default_rng(0).uniform(0, 0.05, scores[name].shape)
    scores["induction"].loc[{"layer": 1, "head": 1}] = np.array(induction, "f4")
    return scores


def labels(named: dict[str, str], steps=fake.STEPS, margin=0.0) -> xr.Dataset:
    """Return stored labels that heads have at every step: a label by head."""
    arrays: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
        name: (fake.HEAD, np.zeros((len(steps), 2, 4), "f4"))
        for name in ("induction", "anti_induction", "sink")
    }
    made = fake.group("head_labels", arrays, steps, parameters={"copying_margin": margin})
    for head, name in named.items():
        made[name].loc[{"layer": int(head[1]), "head": int(head[3])}] = 1
    return made


def test_labels_are_dated_by_the_steps_that_have_scores():
    scores = planted([0, 0, 0.25, 0.6, 0.6])
    run = run_of(head_scores=scores, weight_norm=fake.weight_norm())
    shared = shared_of(run)
    assert 1000 in run.steps  # with weights alone
    assert head_of(shared, "L1H1").before == {"induction": 700}
    assert row_of(shared, "L1H1")["formed"] == "700–1,050"
    said = facts_of(shared, "L1H1")["Labelled induction"]
    assert said.startswith("steps 700 to 1,050: has the label from here on")
    # 0.25 is more than half of the threshold: a head has begun to form by 700.
    assert "between steps 350 and 1,050" in run.findings[0]
    assert title_of(run) == "Induction heads form between steps 350 and 1,050"
    spec = first_spec(shared)
    assert [(one["from"], one["to"]) for one in spec["bands"]] == [(350, 1050)]


@pytest.mark.parametrize(
    ("scores", "title"),
    [
        (planted([0.0] * 5), "No induction head formed by step 1,400"),
        (planted([0.6] * 5).isel(step=slice(2, None)),
         "Induction heads exist at step 700, the first with their scores"),
    ],
    ids=["none", "all"],
)  # fmt: skip
def test_titles_name_steps_that_have_scores(scores, title):
    assert title_of(run_of(head_scores=scores, weight_norm=fake.weight_norm())) == title


def test_a_title_on_generalisation_names_the_last_step_with_a_test_loss():
    early = fake.modular_addition(np.arange(0, 401, 20))
    run = run_of(modular_addition=early, weight_norm=fake.weight_norm())
    assert title_of(run).endswith("does not generalise by step 400")


def test_a_label_of_the_last_checkpoint_alone_is_not_confirmed():
    shared = shared_of(run_of(head_scores=planted([0, 0, 0, 0, 0.6])))
    assert "no later checkpoint confirms it" in facts_of(shared, "L1H1")["Labelled induction"]
    assert head_of(shared, "L1H1").label == "induction (last checkpoint only)"
    confirmed = shared_of(run_of(head_scores=planted([0, 0, 0, 0.6, 0.6])))
    assert "confirms" not in facts_of(confirmed, "L1H1")["Labelled induction"]
    assert head_of(confirmed, "L1H1").label == "induction"


def test_heads_keep_their_pattern_where_the_last_checkpoint_has_no_numbers():
    scores, ablation = fake.head_scores(), stores.ablation()
    for values in (*scores.data_vars.values(), *ablation.data_vars.values()):
        values[-1] = np.nan
    shared = shared_of(run_of(head_scores=scores, head_ablation=ablation))
    head, row = head_of(shared, "L1H1"), row_of(shared, "L1H1")
    assert (head.pattern, head.role) == ("induction", "induction")
    assert head.onset is not None and row["formed"] != "–" and row["score"] == "–"
    assert head_of(shared, "L0H1").pattern is None
    effect = ablation["repeated_loss"].sel(layer=1, head=1)[-2]
    assert head.effect is not None
    assert (head.effect.step, head.effect.value) == (int(effect["step"]), float(effect))


def test_the_stored_label_names_an_anti_induction_head():
    stored = labels({"L1H1": "anti_induction", "L1H3": "induction"}, margin=0.1)
    shared = shared_of(run_of(head_scores=fake.head_scores(), head_labels=stored))
    assert head_of(shared, "L1H1").label == "anti-induction"
    assert head_of(shared, "L1H3").label == "induction"
    said = facts_of(shared, "L1H1")
    assert "Labelled induction" not in said
    assert "copying score is below its null by more than 0.1" in said["Labelled anti-induction"]
    assert "copying" not in facts_of(shared, "L1H3")["Labelled induction"]
    spec = first_spec(shared)
    assert "anti-induction head" in spec["bands"][0]["label"]


def test_labels_on_another_input_do_not_name_a_head():
    stored = labels({"L1H1": "anti_induction"})
    run = run_of(**{"head_scores.text": fake.head_scores(), "head_labels": stored})
    assert "Labelled induction" in facts_of(shared_of(run), "L1H1")


def test_a_label_that_no_score_gives_has_its_definition_as_its_rule():
    run = run_of(head_labels=labels({"L0H1": "anti_induction"}))
    assert facts_of(shared_of(run), "L0H1") == {
        "Label at the end": "anti-induction: Meaning of anti_induction."
    }


def test_scores_on_another_input_have_no_rule_for_a_label():
    groups = {"head_scores": fake.head_scores(), "head_scores.text": fake.head_scores(seed=1)}
    groups["head_scores.text"].attrs["input"] = {"name": "text", "kind": "text", "digest": "1"}
    shared, seen = shared_of(run_of(**groups)), dict.fromkeys(groups, 0)
    for _, made in other_figures(shared, head_of(shared, "L1H1")):
        for panel in made.spec["panels"]:
            group = panel["series"][-1]["of"].partition("/")[0]
            names = [one["name"] for one in panel["series"]]
            is_ruled = bool(panel["rules"]) or "too low for a label" in names
            assert "null" in names and is_ruled == (group == "head_scores"), group
            seen[group] += 1
    assert seen == {"head_scores": 4, "head_scores.text": 5}


def test_the_range_of_all_heads_leaves_out_what_is_undefined():
    scores = fake.head_scores(layers=3, heads=11)
    scores["induction"][4, 0, 0] = np.nan
    scores["induction"][5] = np.nan
    shared = shared_of(run_of(head_scores=scores))
    made = main_figure(shared, head_of(shared, "L2H1"))
    assert made is not None
    drawn = next(one for one in made.spec["series"] if one["name"] == "all heads")
    each = [[v for v in row if v == v] for row in scores["induction"].values.reshape(-1, 33)]
    for name, end in (("low", min), ("high", max)):
        expected = [end(row) if row else np.nan for row in each]
        np.testing.assert_array_equal(pages.numbers(drawn[name]), np.array(expected, "f4"))


def test_effects_say_the_loss_and_the_step():
    ablation = stores.ablation()
    shared = shared_of(run_of(head_scores=fake.head_scores(), head_ablation=ablation))
    last = f"{int(ablation['step'][-1]):,}"
    said = facts_of(shared, "L1H1")["Without it"]
    assert said.endswith(f"increase of the repeated loss when its output is zero, step {last}")
    assert f"increase of the repeated loss at step {last}" in str(heads_table(shared).note)


def test_an_overview_needs_no_in_context_score():
    losses = fake.token_loss().drop_vars(["loss", "in_context_score"])
    run = run_of(token_loss=losses)
    run.findings = []  # sentences need the score
    spec = first_spec(shared_of(run))
    assert [one["y"]["label"] for one in spec["panels"]] == ["mean loss"]
    assert run.left_out == {}


def test_partners_are_the_strongest_of_each_path():
    group = stores.composition(heads=9)
    group["q"] = group["q"] + 5  # would hide the others
    group["v"] = group["v"].where(group["v"] > 0.95, 0.0)  # few are above random matrices
    found = composition_of(run_of(composition=group))
    assert found is not None
    last = group.isel(step=-1).sel(layer_to=1, layer_from=0)
    by_name = partners(found)
    for reader in range(9):
        expected = []
        for path in "kqv":
            values = last[path].sel(head_to=reader).values
            above = values - last[f"{path}_baseline"].sel(head_to=reader).values
            best = np.argsort(-above)[:MOST_PARTNERS]
            expected += [(above[i], path, f"L0H{i}") for i in best if above[i] > 0]
        given = [(one.path, one.read) for one in by_name[f"L1H{reader}"].reads]
        assert given == [(path, read) for _, path, read in sorted(expected, reverse=True)]
        assert {"k", "q"} <= {path for path, _ in given}
