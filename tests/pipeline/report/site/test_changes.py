"""The page of changes: its numbers are those of the stored transitions."""

import numpy as np
import pytest

from pipeline.query.aggregates import transitions
from pipeline.report.site import changes
from pipeline.report.site.blocks import Page, Table
from pipeline.report.site.run_data import Run, opened
from pipeline.report.site.specs import Figure
from tests.flows.planted_store import Planted
from tests.pipeline.report import fake
from tests.pipeline.report.site import pages, stores


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> tuple[Run, Page]:
    """Return a run whose loss falls, and whose head 1 forms, at step 1,000, and its page."""
    uri = Planted(middle=1000).write(tmp_path_factory.mktemp("planted") / "run.zarr")
    [run] = opened({"run": uri})
    page = changes.changes_page(run, {"L0H1"})
    assert page is not None
    return run, page


def parts(page: Page) -> tuple[Figure, Table]:
    items = [item for section in page.sections for item in section.items]
    return items[0], items[1]


def test_the_figure_has_the_planted_changes_with_their_intervals(planted):
    spec = parts(planted[1])[0].spec
    rows = {row["name"]: i for i, row in enumerate(spec["rows"])}
    values, low, high = (pages.numbers(spec["series"][0][key]) for key in ("values", "low", "high"))
    assert (np.diff(values) >= 0).all()
    for name in ("mean loss falls", "L0H1 induction rises"):
        assert low[rows[name]] <= 1000 <= high[rows[name]]
        assert values[rows[name]] == pytest.approx(1000, rel=0.05)
    head = spec["rows"][rows["L0H1 induction rises"]]
    assert (head["role"], head["href"]) == ("induction", "head-L0H1.html")
    assert spec["rows"][rows["mean loss falls"]]["role"] == "loss"
    assert not any(name.startswith("L0H0") for name in rows)


def test_the_table_has_every_stored_transition_with_all_digits(planted):
    run, page = planted
    table, found = parts(page)[1], transitions(run.uri)
    ids = [column.id for column in table.columns]
    shown = {(str(row[0].text), row[ids.index("midpoint")].value): row for row in table.rows}
    stored = found["midpoint"].values
    assert len(table.rows) == np.isfinite(stored).sum() == len(shown)
    for i, j in np.argwhere(np.isfinite(stored)):
        one = found.isel(series=i, transition=j)
        name = {"mean": "mean loss", "in_context_score": "in-context score"}.get(
            str(one["variable"].item()), f"L0H{int(one['head'])} induction")  # fmt: skip
        row = dict(zip(ids, shown[name, float(one["midpoint"])], strict=True))
        assert row["change"].value == float(one["amplitude"])
        assert row["interval"].value == float(one["midpoint_low"])
        span = float(one["midpoint_high"]) / float(one["midpoint_low"])
        assert row["interval-decades"].value == pytest.approx(np.log10(span))
        assert row["extent"].value == float(one["onset"])
        assert row["width"].value == float(one["width"])


def test_the_shapes_are_counted_in_the_lead(planted):
    shapes = transitions(planted[0].uri)["shape"].values.tolist()
    assert f"Of {len(shapes)} series, {shapes.count('sudden')} change suddenly" in planted[1].lead


def test_what_does_not_fit_is_counted(planted, monkeypatch):
    monkeypatch.setattr(changes, "MOST_CHANGES", 1)
    monkeypatch.setattr(changes, "MOST_ROWS", 1)
    page = changes.changes_page(planted[0], set())
    figure, table = parts(page)
    rows = len(parts(planted[1])[1].rows)
    assert len(table.rows) == 1 and f"{rows - 1} more are left out" in table.note
    assert [row["name"] for row in figure.spec["rows"]] == ["mean loss falls"]
    assert "In the table only: " in figure.note
    assert table.rows[0][0].href == ""


def test_spikes_and_gaps_are_said(tmp_path):
    losses = fake.token_loss().drop_vars("loss")
    mean = losses["mean"].values.copy()
    mean[20] += 3
    mean[25] = np.nan
    losses["mean"] = losses["mean"].copy(data=mean)
    [run] = opened({"run": stores.stored(str(tmp_path / "run.zarr"), token_loss=losses)})
    found = transitions(run.uri)
    assert int(found["not_finite"].sum()) == 1
    notes = changes.changes_page(run, set()).sections[-1].items[0].paragraphs
    assert "1 value left out, as not finite: of mean loss." in notes
    assert any("token_loss/mean_by_position" in note for note in notes)
    spikes = int(found["spikes"].sum())
    assert any("as spikes" in note for note in notes) == (spikes > 0)


def test_few_checkpoints_have_no_figure(tmp_path):
    steps = fake.STEPS[:5]
    losses = fake.token_loss(steps).drop_vars("loss")
    [run] = opened({"run": stores.stored(str(tmp_path / "run.zarr"), steps, token_loss=losses)})
    page = changes.changes_page(run, set())
    assert not list(page.figures)
    assert "cannot be told from fewer than" in page.lead
