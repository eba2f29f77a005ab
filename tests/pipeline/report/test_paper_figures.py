"""Figures for papers: sizes, fonts, and nothing drawn that is not in the store."""

import re
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from pipeline import extras
from pipeline.aggregate.loss_space import loss_space
from pipeline.aggregate.phases import SOLVED, phases
from pipeline.aggregate.run_transitions import transitions_of
from pipeline.errors import InputError
from pipeline.report.paper import write as paper_writing
from pipeline.report.paper.figures import figures_of
from pipeline.report.paper.style import SCORES, WIDTHS, ink_on, paper_style
from pipeline.report.paper.write import write_figures
from tests.pipeline.report import fake

COMPOSITION = ("step", "layer_from", "head_from", "layer_to", "head_to")


def full_run() -> xr.DataTree:
    """Return a run with losses, heads and composition; L1H2 reads L0H1 by K."""
    rng = np.random.default_rng(0)
    pairs = rng.uniform(0.05, 0.2, (3, len(fake.STEPS), 2, 4, 2, 4))
    pairs[:, :, 1], pairs[:, :, :, :, 0] = np.nan, np.nan
    pairs[0, -1, 0, 1, 1, 2] = 0.7
    arrays = {kind: (COMPOSITION, of) for kind, of in zip("kqv", pairs, strict=True)}
    base = np.where(np.isnan(pairs[0]), np.nan, 0.125)
    arrays |= {f"{kind}_baseline": (COMPOSITION, base) for kind in "kqv"}
    labels = {dim: np.arange(n) for dim, n in zip(COMPOSITION[1:], (2, 4, 2, 4), strict=True)}
    return fake.run_of(
        head_scores=fake.head_scores(),
        token_loss=fake.token_loss(),
        composition=fake.group("composition", arrays, fake.STEPS, None, labels),
    )


def space_of(run: xr.DataTree) -> xr.Dataset:
    return loss_space({"run": run["token_loss"].to_dataset()})


@cache
def drawn(make: Callable[[], xr.DataTree]) -> dict[str, Figure]:
    run, width = make(), WIDTHS["2-columns"]
    with paper_style():
        found = {
            one.name: one.draw(width)
            for one in figures_of(run, transitions_of(run), lambda _: space_of(run))
        }
    return {name: figure for name, figure in found.items() if figure is not None}


def numbers_in(figure: Figure) -> np.ndarray:
    """Return every number of the lines, points and images of a figure, but not of rules."""
    found = []
    for axes in figure.axes:
        if axes.get_label() == "<colorbar>":
            continue
        lines = [line for line in axes.lines if line.get_gid() != "rule"]
        found += [np.asarray(of, float).ravel() for one in lines for of in one.get_data()]
        found += [np.ma.filled(one.get_array(), np.nan).ravel() for one in axes.images]
        found += [np.asarray(one.get_offsets()).ravel() for one in axes.collections]
        found += [one.get_corners()[:, 0] for one in axes.patches]
    values = np.concatenate(found)
    return values[np.isfinite(values)]


def stored_numbers(*datasets: xr.Dataset) -> np.ndarray:
    numbers = [
        np.asarray(of.values, float).ravel()
        for one in datasets
        for of in (*one.variables.values(),)
        if of.dtype.kind in "fiu"
    ]
    values = np.concatenate(numbers)
    return np.unique(values[np.isfinite(values)])


@pytest.mark.parametrize("make", [full_run, fake.grokking_run])
def test_nothing_is_drawn_that_is_not_stored(make):
    run = make()
    groups = [node.to_dataset() for node in run.children.values()]
    steps = fake.STEPS if make is full_run else []
    space = [space_of(run)] if make is full_run else []
    ends = [float(end) for one in groups if "excluded_loss" in one
            for phase in phases(one) for end in (phase.start, phase.end)]  # fmt: skip
    rows = np.arange(30)  # of the intervals, and of lines in units of the axes
    stored = np.concatenate([stored_numbers(*groups, transitions_of(run), *space), rows, ends])
    figures = drawn(make)
    assert len(figures) == (8 if make is full_run else 2) and len(steps) != 1
    for name, figure in figures.items():
        values = numbers_in(figure)
        # Loss by position t is drawn at the token that it predicts, t + 1.
        allowed = np.append(stored, 63) if name == "loss-by-position" else stored
        nearest = np.abs(values[:, None] - allowed[None]).min(axis=1)
        assert nearest.max() < 1e-6 and len(values) > 10, name


def test_rules_and_bands_are_where_the_definitions_say():
    run = fake.grokking_run()
    figure = drawn(fake.grokking_run)["progress-measures"]
    (rule,) = (line for line in figure.axes[0].lines if line.get_gid() == "rule")
    assert set(rule.get_ydata()) == {SOLVED}
    bands = [(one.get_x(), one.get_x() + one.get_width()) for one in figure.axes[0].patches]
    found = phases(run["modular_addition"].to_dataset())
    assert bands == [(one.start, one.end) for one in found] and len(bands) == 3


def test_heads_that_formed_have_the_colour_of_their_pattern():
    figure = drawn(full_run)["what-happened-when"]
    axes = figure.axes[-1]
    names = {text.get_text(): text.get_color() for text in axes.texts}
    assert set(names) == {
        "L1H1 induction", "L1H3 induction", "L0H2 previous token", "L0H0 duplicate token",
    }  # fmt: skip
    assert names["L1H1 induction"] == names["L1H3 induction"] != names["L0H2 previous token"]
    assert len(axes.lines) == 4


def test_composition_shows_later_heads_by_earlier_heads_from_the_null_up():
    image = drawn(full_run)["composition"].axes[0].images[0]
    table = image.get_array()
    assert table.shape == (4, 4) and image.norm.vmin == 0.125
    assert np.unravel_index(table.argmax(), table.shape) == (2, 1)  # L1H2 reads L0H1


def test_numbers_in_cells_can_be_read_on_their_colour():
    assert (ink_on(SCORES(0.0)), ink_on(SCORES(0.5)), ink_on(SCORES(1.0))) == (
        "black", "black", "white",
    )  # fmt: skip


def write(folder: Path) -> list[Path]:
    """Write the figures of a run that is not stored."""
    run = fake.grokking_run()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper_writing, "open_run", lambda _: run)
        patch.setattr(paper_writing.aggregates, "transitions", lambda _: transitions_of(run))
        return write_figures(["/runs/a $1_2$ run.zarr"], folder)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> list[Path]:
    return write(tmp_path_factory.mktemp("figures"))


def test_files_say_run_figure_and_width(written):
    stems = ["a-1_2-run-progress-measures", "a-1_2-run-transitions"]
    expected = [f"{s}-{w}.{k}" for s in stems for w in WIDTHS for k in ("pdf", "svg", "png")]
    assert [path.name for path in written] == [*expected, "captions.md"]
    assert re.findall(r"\*\*(.+?)\*\*:", written[-1].read_text()) == stems


def test_sizes_are_those_of_columns_in_inches(written):
    for path in written:
        width = WIDTHS["1-column" if "1-column" in path.name else "2-columns"]
        if path.suffix == ".pdf":
            (box,) = re.findall(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", path.read_bytes())
            assert float(box[0]) / 72 == pytest.approx(width, abs=0.001)
        elif path.suffix == ".svg":
            (points,) = re.findall(r'<svg[^>]* width="([\d.]+)pt"', path.read_text())
            assert float(points) / 72 == pytest.approx(width, abs=0.001)
        elif path.suffix == ".png":
            content = path.read_bytes()
            (pixels,) = struct.unpack(">I", content[16:20])
            (per_metre,) = re.findall(rb"pHYs(....)", content, re.DOTALL)
            inches = pixels / (struct.unpack(">I", per_metre)[0] * 0.0254)
            assert inches == pytest.approx(width, abs=0.01)


def test_fonts_are_embedded(written):
    for path in written:
        if path.suffix == ".pdf":
            content = path.read_bytes()
            fonts = re.findall(rb"/Type /Font /Subtype /(\w+)", content)
            assert fonts and b"/FontFile2" in content and b"Type3" not in fonts
        elif path.suffix == ".svg":
            assert "<text" not in path.read_text()  # letters are shapes


def test_the_same_store_gives_the_same_bytes(written, tmp_path):
    for before, after in zip(written, write(tmp_path), strict=True):
        assert before.name == after.name and before.read_bytes() == after.read_bytes()


def test_without_matplotlib_or_store_nothing_is_written(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="absent"):
        write_figures([str(tmp_path / "absent.zarr")], tmp_path / "out")
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"ontogeny\[figures\]"):
        write_figures([str(tmp_path / "absent.zarr")], tmp_path / "out")
    assert not (tmp_path / "out").exists()
