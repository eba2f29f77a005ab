"""The page of losses: by position, in loss space, and how single tokens are learned."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import xarray as xr

from pipeline.findings.gaps import has_numbers
from pipeline.findings.in_context import compared_tokens
from pipeline.findings.number_format import in_words
from pipeline.query import aggregates
from pipeline.query.loss_axes import COMPONENTS
from pipeline.query.losses import loss_answers
from pipeline.report.downsample import RULE, kept_indices
from pipeline.report.site.arrays import coloured, exact, plain
from pipeline.report.site.blocks import Cell, Column, Page, Section, Table, Text, number_cell
from pipeline.report.site.run_data import Run, axis_of
from pipeline.report.site.specs import Figure, figure, lines, series, source, y_axis

PROFILES = 5  # checkpoints of the lines by position
EXAMPLE_ROLES = ("train", "test", "restricted", "excluded", "current_token", "q")
CURVES = 6  # tokens whose learning curves are drawn
BINS = 30
MOST_CELLS = 400_000  # of the matrix by position and step
MOST_EXACT = 20_000  # beyond which it has colours only


def losses_page(run: Run) -> Page | None:
    """Return the page; None where no losses of tokens are stored."""
    found = run.first("token_loss")
    if found is None:
        return None
    group, rows = found
    answers = run.losses(loss_answers, "loss space and learning curves") or {}
    space = run.losses(_space, "loss space") if answers else None
    curves = run.losses(aggregates.learning_curves, "learning curves") if answers else None
    sections = [
        Section("loss-position", "Loss by position", list(_positions(run, group, rows))),
        Section("loss-space", "Loss space", list(_space_items(run, group, space, answers))),
        Section("learning-curves", "Learning curves of tokens",
                list(_curve_items(run, group, rows, curves, answers))),
    ]  # fmt: skip
    sections = [section for section in sections if section.items]
    if not sections:
        return None
    return Page("loss.html", "Loss", "Losses of tokens",
                str(rows["mean"].attrs.get("definition", "")), sections)  # fmt: skip


def _space(uri: str, group: str) -> xr.Dataset:
    # As many components as `loss_answers` takes: the stored result is then the same one.
    return aggregates.loss_space(uri, group, COMPONENTS)


def profiles(run: Run, group: str, rows: xr.Dataset) -> Figure | None:
    """Return the mean loss at each token at a few checkpoints; None where it is undefined."""
    if "mean_by_position" not in rows or not has_numbers(rows["mean_by_position"]):
        return None
    values = rows["mean_by_position"].transpose("step", "position")
    kept = _spread_over(values["step"].values, run.step_scale)
    drawn = [
        series(f"step {int(values['step'][i]):,}", values.values[i], "loss", of=f"{group}/"
               "mean_by_position", emphasis=bool(i == kept[-1]), step=int(values["step"][i]))
        for i in kept.tolist()
    ]  # fmt: skip
    x = {"label": "predicted token", "values": plain(values["position"].values + 1),
         "scale": "linear"}  # fmt: skip
    scale = "step" if run.step_scale == "linear" else "log(1 + step)"
    note = (
        f"Mean loss at each token, at {len(kept)} checkpoints evenly spaced in {scale}; "
        "thick: the last one."
    )
    if (tokens := compared_tokens(rows)) is not None:
        note += f" The in-context score compares tokens {tokens[0]} and {tokens[1]}."
    return figure("loss-profiles", "Loss by position", note,
                  lines(x, y_axis("loss", "nats"), drawn), run.slug,
                  source(run.uri, group, "mean_by_position"))  # fmt: skip


def _spread_over(steps: np.ndarray, scale: str) -> np.ndarray:
    """Return the indices of a few steps, with the first and the last."""
    if scale != "linear":
        return kept_indices(steps, PROFILES)
    wanted = np.linspace(steps[0], steps[-1], PROFILES)
    return np.unique(np.abs(steps[:, None] - wanted).argmin(axis=0))


def _positions(run: Run, group: str, rows: xr.Dataset) -> Iterator[Figure]:
    made = profiles(run, group, rows)
    if made is None:
        return
    yield made
    values = rows["mean_by_position"].transpose("position", "step")
    kept = kept_indices(values["step"].values, max(MOST_CELLS // values.sizes["position"], 2))
    drawn = values.isel(step=kept)
    numbers = drawn.values
    known = numbers[np.isfinite(numbers)]
    low, high = float(known.min()), float(known.max())
    spec = {
        "kind": "matrix", "rows": [f"token {int(one) + 1}" for one in drawn["position"].values],
        "columns": [f"step {int(one):,}" for one in drawn["step"].values],
        "y": {"label": "loss", "unit": "nats", "domain": [low, high]},
        "values": exact(numbers) if numbers.size <= MOST_EXACT else coloured(numbers, low, high),
    }  # fmt: skip
    fewer = f" Drawn at {len(kept)} of {values.sizes['step']:,} checkpoints, {RULE}."
    note = "Rows: predicted tokens. Columns: checkpoints." + fewer * (
        len(kept) < values.sizes["step"]
    )
    yield figure("loss-matrix", "Loss by position over training", note, spec, run.slug,
                 source(run.uri, group, "mean_by_position"))  # fmt: skip


def _space_items(
    run: Run, group: str, space: xr.Dataset | None, answers: Mapping[str, Any]
) -> Iterator[Figure | Table | Text]:
    if space is None or space.sizes["component"] < 2:
        return
    x, y = space["scores"].values[:, :2].T
    steps, share = space["step"].values, space["share"].values
    said, marks = _corner(answers.get("corner") or {}, steps, x, y)
    axes = [f"component {i + 1} ({share[i]:.1%} of the variance)" for i in (0, 1)]
    spec = {
        "kind": "scatter", "x": {"label": axes[0], "unit": "nats", "scale": "linear"},
        "y": y_axis(axes[1], "nats"), "marks": marks,
        "series": [series("checkpoints", y, "loss", x=x, steps=steps.tolist())],
    }  # fmt: skip
    note = (
        "Each checkpoint's losses on all tokens, on their two principal components over "
        f"checkpoints (Olsson et al. 2022). The second is often the arch of the first. {said}"
    )
    line = source(run.uri, group, "loss")
    yield figure("loss-space", "Trajectory through loss space", note, spec, run.slug, line)
    axes_said = answers.get("axes") or {}
    if "components" in axes_said:
        yield _axes_table(axes_said)
    elif "unknown" in axes_said:
        run.leave_out("what explains the axes of loss space", str(axes_said["unknown"]))


def _corner(
    found: Mapping[str, Any], steps: np.ndarray, x: np.ndarray, y: np.ndarray
) -> tuple[str, list[dict[str, Any]]]:
    if "candidate" not in found:
        return str(found.get("unknown", "")), []
    where = f"step {found['candidate']:,}"
    if found["step"] is None:
        return (
            f"No corner beyond those of random walks: the sharpest, at {where}, has "
            f"p = {found['p']:.2g}."
        ), []
    place = int(np.flatnonzero(steps == found["step"])[0])
    mark = {"x": float(x[place]), "y": float(y[place]), "label": f"corner: {where}"}
    said = f"It turns a corner at {where} (p = {found['p']:.2g} under random walks)."
    if found["in_induction"] is not None:
        within = "within" if found["in_induction"] else "outside"
        said += f" That is {within} the rise of the first induction head."
    return said, [mark]


def _axes_table(found: Mapping[str, Any]) -> Table:
    """Return which feature explains each component, alone, and how much of it."""
    columns = [
        Column("component", "component", True), Column("of", "of its"),
        Column("feature", "feature"), Column("share", "explained alone", True),
        Column("low", "from", True), Column("high", "to", True),
    ]  # fmt: skip
    rows = [
        [Cell(str(one["component"]), one["component"]), Cell(in_words(of)),
         Cell(in_words(best["feature"])), *(number_cell(best[k]) for k in ("share", "low", "high"))]
        for one in found["components"]
        for of in found["first_is_overall_loss"]
        for best in one[of][:2]
    ]  # fmt: skip
    verdicts = "; ".join(f"of its {k}, this {v}" for k, v in found["first_is_overall_loss"].items())
    note = (
        "The share of a component's variance that a feature explains alone, with the 95% interval; "
        f"the two largest. Claim: the first component is the overall loss: {verdicts}."
    )
    return Table("axes", "What the axes are", columns, rows, note)


def _curve_items(
    run: Run, group: str, rows: xr.Dataset, curves: xr.Dataset | None, answers: Mapping[str, Any]
) -> Iterator[Figure | Table | Text]:
    if curves is None:
        return
    ages = curves["age_of_acquisition"].values
    known = ages[np.isfinite(ages)]
    if not known.size:
        run.leave_out("learning curves of tokens", "no token has an age of acquisition")
        return
    yield _examples(run, group, rows, curves)
    edges = np.unique(np.round(np.geomspace(max(known.min(), 1), known.max() + 1, BINS + 1)))
    counts, edges = np.histogram(known, edges)
    bars = [f"{a:,.0f}–{b:,.0f}" for a, b in pairwise(edges)]
    spec = {
        "kind": "bars", "rows": bars, "y": y_axis("tokens"),
        "series": [series("tokens", counts, "loss")],
    }  # fmt: skip
    note = (
        f"{curves['age_of_acquisition'].attrs.get('definition', '')} {known.size:,} of "
        f"{curves.attrs['tokens']:,} tokens have one; the median is step {np.median(known):,.0f}."
    )
    yield figure("ages", "Age of acquisition", note, spec, run.slug,
                 source(run.uri, group, "loss"))  # fmt: skip
    if kinds := answers["tokens"].get("kinds", {}).get("repetition"):
        yield _kinds_table(kinds)


def _examples(run: Run, group: str, rows: xr.Dataset, curves: xr.Dataset) -> Figure:
    """Return the losses of a few tokens, evenly spaced in the order of their ages."""
    ages = curves["age_of_acquisition"].values
    order = np.argsort(np.where(np.isfinite(ages), ages, np.inf), axis=None, kind="stable")
    order = order[: int(np.isfinite(ages).sum())]
    chosen = order[np.unique(np.linspace(0, len(order) - 1, CURVES).astype(int))]
    drawn = []
    for sequence, position in zip(*np.unravel_index(chosen, ages.shape), strict=True):
        labels = {"sequence": int(curves["sequence"][sequence]),
                  "position": int(curves["position"][position])}  # fmt: skip
        values = rows["loss"].sel(labels).values
        name = f"sequence {labels['sequence']}, position {labels['position']}"
        role = EXAMPLE_ROLES[len(drawn) % len(EXAMPLE_ROLES)]
        drawn.append(series(name, values, role, of=f"{group}/loss", at=labels))
    note = "Tokens evenly spaced in the order of their ages of acquisition, the youngest first."
    return figure("curves", "Losses of single tokens", note,
                  lines(axis_of(rows), y_axis("loss", "nats"), drawn), run.slug,
                  source(run.uri, group, "loss"))  # fmt: skip


def _kinds_table(kinds: list[Mapping[str, Any]]) -> Table:
    columns = [
        Column("kind", "kind of token"), Column("tokens", "tokens", True),
        Column("final", "final loss", True), Column("age", "age of acquisition", True),
        Column("with_age", "share with an age", True),
    ]  # fmt: skip
    rows = [
        [Cell(in_words(str(one["kind"]))), Cell(f"{one['tokens']:,}", one["tokens"]),
         *(number_cell(_number(one.get(key))) for key in
           ("final_surprisal", "age_of_acquisition", "with_age"))]
        for one in kinds
    ]  # fmt: skip
    return Table("kinds", "By kind of token", columns, rows, "Means over the tokens of a kind.")


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
