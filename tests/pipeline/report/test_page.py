"""The page: its content, and that it needs no network."""

import json
import re
from functools import cache
from html.parser import HTMLParser

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.report.page import LIBRARY, render, run_of, write_report
from pipeline.report.sections import MOST_FRAMES, sections
from tests.pipeline.report import fake

EVIL = "<script>alert(1)</script>\"'&{{ 7*7 }}"
EVIL_NAME = EVIL.replace("/", "")  # which no name of a variable can hold


class Page(HTMLParser):
    """The page as a browser sees it: elements, visible text, embedded JSON."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text, self.data = "", []
        self._open: tuple[str, dict] = ("", {})
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self._open = (tag, dict(attrs))
        self.tags.append(self._open)

    def handle_endtag(self, tag):
        self._open = ("", {})

    def handle_data(self, data):
        tag, attributes = self._open
        if attributes.get("type") == "application/json":
            self.data.append(json.loads(data))
        elif tag not in ("script", "style"):
            self.text += data


def html_of(tree, uri="demo/one.zarr") -> str:
    return render([run_of(uri, tree)])


@cache
def language_page() -> tuple[str, Page]:
    """Return the page of a language model, made once."""
    html = html_of(fake.induction_run())
    return html, Page(html)


def titles(tree):
    return [section.title for section in sections(tree)]


def test_sections_appear_from_what_the_store_holds():
    language = ["Loss and in-context learning", "Attention heads", "Weights"]
    assert titles(fake.induction_run()) == language
    assert titles(fake.grokking_run()) == ["Progress measures", "Weights"]
    assert titles(fake.run_of(head_scores=fake.head_scores())) == ["Attention heads"]
    assert titles(fake.run_of()) == []


def test_every_score_of_a_head_has_its_trajectories_and_its_mosaic():
    scores = fake.head_scores()
    (section,) = sections(fake.run_of(head_scores=scores[sorted(map(str, scores.data_vars))]))
    assert [plate.title for plate in section.plates] == [
        "Induction", "Previous token", "Duplicate token", "First token", "Current token",
    ]  # fmt: skip
    assert all(len(plate.plots) == 2 and plate.plots[1].frames for plate in section.plates)
    assert section.frames == tuple(fake.STEPS.tolist())


def test_an_unknown_measure_is_drawn_from_its_dimensions():
    rows = np.ones((len(fake.STEPS), 3))
    unknown = fake.group(
        "sharpness",
        {
            "top_eigenvalue": ("step", np.arange(len(fake.STEPS), dtype=float)),
            "per_head": (fake.HEAD, -np.ones((len(fake.STEPS), 2, 4))),
            "by_lag": (("step", "lag"), rows),
            "pairs": (("step", "layer", "head", "lag"), np.ones((len(fake.STEPS), 2, 4, 3))),
        },
        fake.STEPS,
    )
    (section,) = sections(fake.run_of(sharpness=unknown))
    assert section.title == "Sharpness"
    assert {p.title for p in section.plates} == {"Top eigenvalue", "Per head", "By lag"}
    assert section.undrawn == ("pairs (step, layer, head and lag)",)
    assert "pairs (step, layer, head and lag)" in Page(html_of(fake.run_of(s=unknown))).text


def test_siblings_on_other_inputs_have_their_own_sections():
    tree = fake.run_of(
        **{"head_scores": fake.head_scores(), "head_scores.wiki": fake.head_scores()}
    )
    assert titles(tree) == ["Attention heads", "Attention heads on input 'wiki'"]


def test_captions_are_definitions_and_axes_have_units():
    _, page = language_page()
    assert "Meaning of mean_by_position." in page.text
    assert "Meaning of induction. (A paper.)" in page.text
    both = "Mean: Meaning of mean. In-context score: Meaning of in_context_score. (A paper.)"
    assert both in page.text
    axes = [
        axis["title"]["text"]
        for plot in page.data
        for key, axis in plot.get("layout", {}).items()
        if key.startswith(("xaxis", "yaxis")) and "title" in axis
    ]
    assert {"optimizer step", "loss (nats)", "mean loss (nats)", "head", "layer"} <= set(axes)


def test_findings_and_provenance_are_on_the_page():
    _, page = language_page()
    assert "Induction heads formed suddenly: L" in page.text
    for said in ("demo/one.zarr", "head_scores v1", "held_out", "early_token = 10",
                 "kind = random, digest = digest of held_out",
                 "41, steps 0 to 2,000", "float32", "abc123"):  # fmt: skip
        assert said in page.text


def test_checkpoints_that_one_measure_lacks_are_named():
    partial = fake.weight_norm().drop_sel(step=[550, 1000])
    whole = fake.group("sharpness", {"top": ("step", fake.STEPS * 1.0)}, fake.STEPS)
    page = Page(html_of(fake.run_of(sharpness=whole, weight_norm=partial)))
    assert "550 and 1,000" in page.text


def test_a_hostile_name_stays_text():
    evil = {"input": EVIL, "definition": EVIL, "parameters": {EVIL: EVIL}}
    scores = fake.head_scores(**evil)
    scores["induction"].attrs |= {"definition": EVIL, "unit": EVIL, "references": EVIL}
    scores = scores.rename({"duplicate_token": EVIL_NAME})
    norms = fake.weight_norm(parameters=[EVIL, "</script><img src=x>"])
    tree = fake.run_of(head_scores=scores, weight_norm=norms)
    tree.attrs = {"identity": {EVIL: EVIL}}
    page = Page(html_of(tree, f"demo/{EVIL}"))
    # One for each plot (five pairs, two of weights, the transitions), the tokens, the library, the
    # page's own.
    assert sum(tag == "script" for tag, _ in page.tags) == 5 * 2 + 2 + 1 + 3
    assert not any(tag == "img" for tag, _ in page.tags)
    assert EVIL in page.text
    assert "49" not in page.text.replace(EVIL, "")


def test_names_cannot_put_markup_into_a_figure():
    norms = fake.weight_norm(parameters=["<b>bold</b>", '<a href="http://x">link</a>'])
    page = Page(html_of(fake.run_of(weight_norm=norms)))
    plotted = json.dumps(page.data)
    assert "&lt;b&gt;bold" in plotted
    assert "<b>bold" not in plotted
    assert "<a " not in plotted


def test_the_page_loads_one_file_beside_it_and_no_network():
    html, page = language_page()
    sources = [a[k] for _, a in page.tags for k in ("src", "href") if k in a]
    outside = [s for s in sources if not s.startswith(("#", "data:"))]
    assert outside == [LIBRARY]
    assert not re.search(r"(https?:|url\(|@import|fetch\(|XMLHttpRequest)", html)


def test_a_long_run_of_a_large_model_stays_a_page_that_opens():
    steps = np.arange(0, 600_000, 1000)
    tree = fake.run_of(
        head_scores=fake.head_scores(steps, layers=24, heads=16),
        token_loss=fake.token_loss(steps, length=512),
        weight_norm=fake.weight_norm(steps, [f"layers.{i}.weight" for i in range(300)]),
    )
    found = sections(tree)
    (heads,) = [section for section in found if section.group == "head_scores"]
    assert len(heads.frames) <= MOST_FRAMES
    assert (heads.frames[0], heads.frames[-1]) == (0, 599_000)
    assert len(html_of(tree)) < 12e6
    assert "of 600 checkpoints, evenly spaced in log(1 + step)" in heads.plates[0].caption


def test_losses_per_token_are_never_embedded():
    losses = fake.token_loss()
    losses["loss"] = losses["loss"] * 0 + 777.25
    html = html_of(fake.run_of(token_loss=losses))
    numbers = json.dumps(Page(html).data)
    assert "777.25" not in numbers
    shapes = set(re.findall(r'"shape": "([^"]*)"', numbers))
    assert "3, 63" not in shapes


def test_one_run_of_several_has_its_own_place():
    runs = [run_of(f"demo/{n}.zarr", tree, i) for i, (n, tree) in enumerate(
        {"induction": fake.induction_run(), "addition": fake.grokking_run()}.items())]  # fmt: skip
    page = Page(render(runs))
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    targets = {a["href"][1:] for t, a in page.tags if t == "a"}
    assert targets <= set(ids)
    articles = [a for t, a in page.tags if t == "article"]
    assert len(articles) == 2


@pytest.mark.parametrize(("last", "scale"), [(10_000, "linear"), (10_001, "log")])
def test_steps_of_long_runs_are_first_drawn_on_a_log_axis(last, scale):
    steps = np.array([0, last])
    assert run_of("x", fake.run_of(weight_norm=fake.weight_norm(steps))).step_scale == scale
    grokking = fake.run_of(modular_addition=fake.modular_addition(steps))
    assert run_of("x", grokking).step_scale == "linear"


@pytest.mark.parametrize("steps", [[0], [0, 1], [1000]])
def test_a_run_of_one_or_two_checkpoints_has_a_page(steps):
    tree = fake.run_of(token_loss=fake.token_loss(), head_scores=fake.head_scores())
    tree = tree.sel(step=steps)
    assert "Figure 1" in Page(html_of(tree)).text


def test_undefined_numbers_do_not_spoil_the_page():
    tree = fake.grokking_run()
    group = tree["modular_addition"].to_dataset()
    for name in ("restricted_loss", "excluded_loss", "logit_variance_explained"):
        group[name][:] = np.nan
    why = "restricted_loss, excluded_loss, logit_variance_explained: NaN, because so it is"
    group.attrs["undefined"] = why
    page = Page(html_of(fake.run_of(modular_addition=group)))
    assert "key frequencies are undefined: so it is." in page.text
    assert f"Undefined for this run: {why}" in page.text
    assert "Not drawn" not in page.text
    assert "Arrows" not in page.text
    assert "Three phases" not in page.text


def test_a_place_without_a_store_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="no store here"):
        write_report([str(tmp_path / "absent.zarr")], tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_steps_that_select_skipped_are_not_said_to_be_missing():
    from pipeline.report.page import _provenance

    tree = fake.induction_run()
    group = tree["head_scores"].to_dataset()
    saved = [int(step) for step in group["step"].values]
    few = group.isel(step=[0, 2])
    assert _provenance("head_scores", few, saved)["not selected"] == "none"
    few.attrs["selected_steps"] = [saved[0], saved[2], saved[4]]
    row = _provenance("head_scores", few, saved)
    assert row["missing"] == f"{saved[4]:,}"
    assert row["not selected"] == str(len(saved) - 3)
