"""The table and the page of claims, from a small experiment."""

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from pipeline.experiments.claims import Above, Effect, finding
from pipeline.experiments.experiment import Outcome, run_experiment
from pipeline.experiments.page import write_claims
from pipeline.experiments.runs import SerialRuns
from pipeline.experiments.table import COLUMNS, as_json, finding_row, markdown_page
from tests.pipeline.experiments.tiny import CLAIM, TINY


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run_experiment(TINY, SerialRuns(tmp_path_factory.mktemp("experiments"), quick=True))


def cells(text: str) -> list[list[str]]:
    """Return the cells of the tables of a page of Markdown, as a parser reads them."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    rows: list[list[str]] = []
    for before, token in pairwise(tokens):
        if before.type == "tr_open":
            rows.append([])
        if before.type in ("td_open", "th_open"):
            rows[-1].append("".join(one.content for one in token.children or []))
    return rows


def test_a_cell_holds_its_text_whatever_is_in_it(outcome):
    head, row = cells(markdown_page([outcome], (), "ontogeny experiment tiny"))
    assert head == [*COLUMNS, "time (s)"]
    shown = [finding_row(outcome.findings[0])[column] for column in COLUMNS]
    assert row == [*shown, f"{outcome.seconds:,.0f}"]
    assert row[0] == CLAIM.sentence and "|" in row[0]


def test_what_was_not_carried_out_is_said(outcome, tmp_path):
    failed = ["steps: a disk is full"]
    assert "Not carried out: steps: a disk is full" in markdown_page([outcome], failed, "x")
    page = write_claims([outcome], failed, tmp_path / "site", "x")
    assert "Not carried out: steps: a disk is full" in page.read_text(encoding="utf-8")


def test_a_quick_page_says_so(outcome):
    assert "**quick**" in markdown_page([outcome], (), "ontogeny experiment tiny --quick")
    assert "quick" not in markdown_page(
        [replace(outcome, quick=False)], (), "ontogeny experiment tiny"
    )


def test_json_has_every_number_and_no_nan(outcome):
    undefined = finding(CLAIM, Effect("x", "1", {0: float("nan"), 1: 2.0}), Above(0))
    text = json.dumps(as_json(replace(outcome, findings=[undefined])), allow_nan=False)
    (found,) = json.loads(text)["claims"]
    assert found["by_seed"] == {"0": None, "1": 2.0} and found["verdict"] == "undecided"
    (found,) = as_json(outcome)["claims"]
    values = [found["by_seed"][seed] for seed in ("0", "1")]
    assert found["mean"] == pytest.approx(sum(values) / 2)


def test_the_page_shows_every_claim_with_its_numbers(outcome, tmp_path):
    page = write_claims([outcome], (), tmp_path / "site", "ontogeny experiment tiny --quick")
    text = page.read_text(encoding="utf-8")
    assert "1 claim: " in text and "quick" in text
    assert 'href="#weights-have-a-norm"' in text and 'id="weights-have-a-norm"' in text
    spec = json.loads(re.search(r'class="spec">(.*?)</script>', text)[1])
    assert [row["name"] for row in spec["rows"]] == ["seed 0", "seed 1", "mean"]
    (region,), domain = spec["bands"], spec["y"]["domain"]
    assert domain[0] < region["from"] == 0 < region["to"] == domain[1]
    for link in set(re.findall(r'href="([^"#?:]+)"', text)):
        assert (Path(page).parent / link).is_file(), link


def test_a_claim_without_numbers_is_told_in_words(outcome, tmp_path):
    empty = finding(CLAIM, Effect("x", "1", {}), Above(0))
    page = write_claims([replace(outcome, findings=[empty])], (), tmp_path / "site", "x")
    assert "not tested with --quick" in page.read_text(encoding="utf-8")
