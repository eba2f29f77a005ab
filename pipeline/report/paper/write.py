"""Write figures for papers: PDF, SVG and PNG of runs' main results, one and two columns wide."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.extras import require
from pipeline.query import aggregates, open_run
from pipeline.query.loss_axes import COMPONENTS
from pipeline.report.paper.figures import figures_of
from pipeline.store.store_names import store_names
from pipeline.writing import whole_file

# matplotlib is an optional dependency: the modules that import it are imported when they draw.
if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pipeline.report.paper.style import StepScale

FORMATS = ("pdf", "svg", "png")
CAPTIONS = "captions.md"


def write_figures(
    stores: Sequence[str], folder: str | Path, scale: "StepScale" = "linear"
) -> list[Path]:
    """Write the figures of some stores into a folder, as RUN-FIGURE-COLUMNS.FORMAT; return them.

    Each figure is a PDF with embedded fonts, an SVG and a PNG of 300 dots per inch, 3.35 inches
    (one column) and 6.89 inches (two columns) wide. The same store gives the same bytes. The last
    file, `captions.md`, has their captions, with what each leaves out. scale: of the step axes;
    "log" is log(1 + step), which transitions always have.

    Raises InputError without matplotlib, and, before anything is written, for a URI without a
    store.
    """
    require("matplotlib")
    from pipeline.report.paper.style import WIDTHS, paper_style

    uris = store_names([str(store) for store in stores])
    runs = {name: (uri, open_run(uri)) for name, uri in uris.items()}
    folder, written, captions = Path(folder), [], []
    folder.mkdir(parents=True, exist_ok=True)
    for run, (uri, tree) in runs.items():
        changes = aggregates.transitions(uri)
        # As many components as `loss_answers` takes: the stored result is then the same one.
        space = partial(aggregates.loss_space, uri, components=COMPONENTS)
        for one in figures_of(tree, changes, space, scale):
            stem = f"{_file_name(run)}-{one.name}"
            for columns, width in WIDTHS.items():
                with paper_style():
                    if (figure := one.draw(width)) is not None:
                        written += _saved(figure, folder, f"{stem}-{columns}")
            drawn = bool(written) and written[-1].name.startswith(stem)
            captions.append(f"- **{stem}**{'' if drawn else ' (nothing to draw)'}: {one.caption}")
    with whole_file(folder / CAPTIONS) as draft:
        draft.write_text("\n".join(captions) + "\n", encoding="utf-8")
    return [*written, folder / CAPTIONS]


def _saved(figure: "Figure", folder: Path, stem: str) -> list[Path]:
    """Save a figure in each format; without a date, so that its bytes are those of its content."""
    undated: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
    paths = [folder / f"{stem}.{kind}" for kind in FORMATS]
    for path, kind in zip(paths, FORMATS, strict=True):
        with whole_file(path) as draft:
            figure.savefig(draft, format=kind, metadata=undated.get(kind))
    return paths


def _file_name(run: str) -> str:
    """Return a run's name with only those characters that every file system takes."""
    return re.sub(r"[^A-Za-z0-9.=_-]+", "-", run).strip("-.") or "run"
