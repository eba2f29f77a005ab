"""Progress measures, and figures of every other measure by the dimensions of its variables."""

from collections.abc import Iterator

import numpy as np
import xarray as xr

from pipeline.findings.gaps import has_numbers
from pipeline.findings.grokking import key_frequencies
from pipeline.findings.number_format import in_words, listed
from pipeline.report.downsample import kept_indices
from pipeline.report.site.arrays import coloured, exact
from pipeline.report.site.blocks import Page, Section
from pipeline.report.site.overview import progress_strips
from pipeline.report.site.run_data import Run, axis_of, with_numbers
from pipeline.report.site.specs import Figure, figure, lines, series, source, y_axis
from pipeline.report.transition_rows import LOSSES

MOST_STEPS = 200  # columns of a matrix
MOST_EXACT = 20_000
# Those with pages of their own: on all inputs, or on the first one only.
_ELSEWHERE = {"head_scores", "attention_patterns", "modular_addition"}
_FIRST_ELSEWHERE = {"head_labels", "composition", "token_loss"}


def progress_page(run: Run) -> Page | None:
    """Return the progress measures of modular addition with their phases; None without them."""
    sections = [
        Section(f"progress-{group.replace('.', '-')}", "Progress measures",
                list(_progress(run, group, rows)))
        for group, rows in run.groups.get("modular_addition", {}).items()
    ]  # fmt: skip
    sections = [section for section in sections if section.items]
    if not sections:
        return None
    return Page(
        "progress.html",
        "Progress",
        "Progress measures",
        "Losses and sparsity in the Fourier basis (Nanda et al. 2023).",
        sections,
    )


def _progress(run: Run, group: str, rows: xr.Dataset) -> Iterator[Figure]:
    losses = LOSSES["modular_addition"]
    if any(has_numbers(rows[name]) for name in losses):
        yield progress_strips(run, group, rows)
    shown = {*losses, "embedding_norm"}
    yield from _over_steps(run, group, rows, [n for n in rows.data_vars if n not in shown])
    if "embedding_norm" in rows and run.says_something(group, "embedding_norm"):
        made = _matrix(run, group, rows["embedding_norm"])
        keys = key_frequencies(rows)
        named = f" Key frequencies: {listed([str(k) for k in keys], 20)}." if keys else ""
        yield Figure(made.id, made.title, made.note + named, made.spec)


def others_page(run: Run) -> Page | None:
    """Return the measures, and further inputs of these, that have no page of their own.

    None without any.
    """
    sections = []
    for measure, of_measure in run.groups.items():
        for group, rows in of_measure.items():
            is_first = group == next(iter(of_measure))
            if measure in _ELSEWHERE or (measure in _FIRST_ELSEWHERE and is_first):
                continue
            given = group.partition(".")[2]
            title = in_words(measure).capitalize() + (f" on input {given}" if given else "")
            items = [*_over_steps(run, group, rows, list(rows.data_vars))]
            items += [_matrix(run, group, one) for one in _two_dimensional(run, group, rows)]
            if items:
                sections.append(Section(f"group-{group.replace('.', '-')}", title, items))
    if not sections:
        return None
    return Page("measures.html", "Measures", "Other measures", "", sections)


def _over_steps(run: Run, group: str, rows: xr.Dataset, names: list) -> Iterator[Figure]:
    """Yield one figure for the variables of each unit that have a number at each step."""
    by_unit: dict[str, list[str]] = {}
    for name in names:
        values = rows[name]
        if values.dims == ("step",) and run.says_something(group, str(name)):
            by_unit.setdefault(str(values.attrs.get("unit", "")), []).append(str(name))
    for unit, of in by_unit.items():
        drawn = [series(in_words(name), rows[name].values, "loss" if i == 0 else "none",
                        of=f"{group}/{name}") for i, name in enumerate(of)]  # fmt: skip
        note = " ".join(
            f"{in_words(name).capitalize()}: {rows[name].attrs.get('definition', '')}"
            for name in of
        )
        title = listed([in_words(name) for name in of], 3).capitalize()
        y = y_axis("value" if len(of) > 1 else in_words(of[0]), unit)
        yield figure(
            f"{group.replace('.', '-')}-{of[0]}",
            title,
            note,
            lines(axis_of(rows), y, drawn),
            run.slug,
            source(run.uri, group, of[0]),
        )


def _two_dimensional(run: Run, group: str, rows: xr.Dataset) -> Iterator[xr.DataArray]:
    for name, values in rows.data_vars.items():
        if len(values.dims) == 2 and "step" in values.dims and values.dtype.kind == "f":
            if run.says_something(group, str(name)):
                yield values
        elif set(values.dims) == {"step", "layer", "head"}:
            if group.partition(".")[0] == "head_labels":
                run.leave_out(f"{group}/{name}", "the labels are those of the first input")
        elif len(values.dims) > 2:
            run.leave_out(f"{group}/{name}", "more dimensions than a figure of this page has")


def _matrix(run: Run, group: str, values: xr.DataArray) -> Figure:
    """Return a variable over steps and another dimension as a matrix."""
    other = next(str(dim) for dim in values.dims if dim != "step")
    known_at = with_numbers(values)
    kept = kept_indices(known_at["step"].values, MOST_STEPS)
    drawn = known_at.isel(step=kept).transpose(other, "step")
    numbers = drawn.values.astype(np.float32)
    known = numbers[np.isfinite(numbers)]
    low, high = float(known.min()), float(known.max())
    named = drawn[other].values if other in drawn.coords else np.arange(drawn.sizes[other])
    name = str(values.name)
    spec = {
        "kind": "matrix", "rows": [str(one) for one in named],
        "columns": [f"step {int(one):,}" for one in drawn["step"].values],
        "y": y_axis(in_words(name), str(values.attrs.get("unit", "")), (min(low, 0.0), high)),
        "values": exact(numbers) if numbers.size <= MOST_EXACT else coloured(numbers, low, high),
    }  # fmt: skip
    fewer = run.said_drawn(len(kept), known_at.sizes["step"])
    note = f"{values.attrs.get('definition', '')} Rows: {in_words(other)}{fewer and '; ' + fewer}."
    return figure(f"{group.replace('.', '-')}-{name}", in_words(name).capitalize(), note, spec,
                  run.slug, source(run.uri, group, name))  # fmt: skip
