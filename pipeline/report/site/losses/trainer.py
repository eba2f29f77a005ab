"""The Trainer's own losses, beside the mean loss of a measure."""

from collections.abc import Iterator
from contextlib import suppress

import xarray as xr

from pipeline.findings.gaps import has_numbers
from pipeline.query.trainer_log import GROUP, trainer_log
from pipeline.report.site.run_data import Run, with_numbers
from pipeline.report.site.specs import (
    Figure,
    Source,
    figure,
    lines,
    series,
    shell_word,
    step_axis,
    y_axis,
)
from pipeline.store import OldLayoutError

_NAMES = {"loss": "the Trainer's training loss", "eval_loss": "the Trainer's evaluation loss"}


def trainer_items(run: Run, group: str, rows: xr.Dataset) -> Iterator[Figure]:
    """Yield the figure of both; nothing where the store has no log of a Trainer with losses."""
    log = None
    with suppress(OldLayoutError):
        log = trainer_log(run.uri)
    logged = {name: log[name].dropna("step") for name in _NAMES if log is not None and name in log}
    logged = {name: values for name, values in logged.items() if values.size}
    if not logged or "mean" not in rows or not has_numbers(rows["mean"]):
        return
    ours = with_numbers(rows["mean"])
    each = {f"{group}: mean loss": ours, **{_NAMES[name]: of for name, of in logged.items()}}
    drawn = [
        series(name, of.values, "loss" if of is ours else "none", x=of["step"].values,
               emphasis=of is ours)
        for name, of in each.items()
    ]  # fmt: skip
    note = (
        "What the Trainer logged (trainer_state.json), by its own steps, and the mean loss on the "
        "input of the analysis at checkpoints. The texts differ, and so may the levels."
    )
    longest = max(each.values(), key=lambda of: of.sizes["step"])
    python = f"trainer_log({run.uri!r})"
    command = f"ontogeny query {shell_word(run.uri)} {GROUP}/{next(iter(logged))}"
    yield figure("loss-trainer", "The Trainer's losses", note,
                 lines(step_axis(longest["step"].values), y_axis("loss", "nats"), drawn), run.slug,
                 Source(python, command))  # fmt: skip
