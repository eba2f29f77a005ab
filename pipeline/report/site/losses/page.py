"""The page of losses: by position, in loss space, and how single tokens are learned."""

from collections.abc import Iterator

import numpy as np
import xarray as xr

from pipeline.findings.gaps import has_numbers
from pipeline.findings.in_context import compared_tokens
from pipeline.query.losses import loss_answers
from pipeline.report.downsample import kept_indices
from pipeline.report.site.arrays import coloured, exact, plain
from pipeline.report.site.blocks import Page, Section
from pipeline.report.site.losses.curves import curve_items
from pipeline.report.site.losses.space import space_items
from pipeline.report.site.losses.trainer import trainer_items
from pipeline.report.site.run_data import Run, with_numbers
from pipeline.report.site.specs import Figure, figure, lines, series, source, y_axis

PROFILES = 5  # checkpoints of the lines by position
MOST_CELLS = 400_000  # of the matrix by position and step
MOST_EXACT = 20_000  # beyond which it has colours only


def losses_page(run: Run) -> Page | None:
    """Return the page; None where no losses of tokens are stored."""
    found = run.first("token_loss")
    if found is None:
        return None
    group, rows = found
    answers = run.losses(loss_answers, "loss space and learning curves")
    sections = [
        Section("loss-position", "Loss by position", list(_positions(run, group, rows))),
        Section("loss-space", "Loss space", list(space_items(run, group, answers))),
        Section("learning-curves", "Learning curves of tokens",
                list(curve_items(run, group, rows, answers))),
        Section("trainer-log", "Beside the Trainer's own losses",
                list(trainer_items(run, group, rows))),
    ]  # fmt: skip
    sections = [section for section in sections if section.items]
    if not sections:
        return None
    return Page("loss.html", "Loss", "Losses of tokens",
                str(rows["mean"].attrs.get("definition", "")), sections)  # fmt: skip


def profiles(run: Run, group: str, rows: xr.Dataset) -> Figure | None:
    """Return the mean loss at each token at a few checkpoints; None where it is undefined."""
    if "mean_by_position" not in rows:
        return None
    if not has_numbers(rows["mean_by_position"]):
        run.leave_out(f"{group}/mean_by_position", "undefined")
        return None
    values = with_numbers(rows["mean_by_position"]).transpose("step", "position")
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
    values = with_numbers(rows["mean_by_position"]).transpose("position", "step")
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
    fewer = run.said_drawn(len(kept), values.sizes["step"])
    note = f"Rows: predicted tokens. Columns: checkpoints{fewer and '; ' + fewer}."
    yield figure("loss-matrix", "Loss by position over training", note, spec, run.slug,
                 source(run.uri, group, "mean_by_position"))  # fmt: skip
