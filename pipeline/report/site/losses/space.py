"""Loss space on the page of losses: the trajectory, its corner, and what the axes are."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import xarray as xr

from pipeline.findings.number_format import in_words
from pipeline.query import aggregates
from pipeline.query.loss_axes import COMPONENTS
from pipeline.report.site.blocks import Cell, Column, Table, number_cell
from pipeline.report.site.losses.curves import losses_source
from pipeline.report.site.run_data import Run
from pipeline.report.site.specs import Figure, figure, series, y_axis


def _space(uri: str, group: str) -> xr.Dataset:
    # As many components as `loss_answers` takes: the stored result is then the same one.
    return aggregates.loss_space(uri, group, COMPONENTS)


def space_items(
    run: Run, group: str, answers: Mapping[str, Any] | None
) -> Iterator[Figure | Table]:
    """Yield the trajectory and what explains its axes. answers: of `loss_answers`; None without."""
    space = run.losses(_space, "loss space") if answers is not None else None
    if answers is None or space is None or space.sizes["component"] < 2:
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
    line = losses_source(run.uri, group, "loss_space", COMPONENTS)
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
