"""What a run shows of itself in the Prefect UI: tags, progress, and artifacts.

Nothing of it is worth failing for: a server that is away costs the picture, not the run.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.runtime import flow_run

from pipeline.config import Analysis
from pipeline.main import Summary
from pipeline.report import findings
from pipeline.report.sparklines import overview

_SECONDS_BETWEEN = 2.0


def store_name(store: str) -> str:
    """The name by which a store is known among others: the last part of its URI."""
    return store.rstrip("/").rpartition("/")[2].removesuffix(".zarr")


def run_name(analysis: Analysis) -> str:
    """Which run is analysed, and which of its steps are asked for."""
    chosen = {} if analysis.select is None else analysis.select.model_dump(exclude_none=True)
    said = "all steps"
    for how, what in chosen.items():
        said = {
            "steps": f"steps {what}",
            "every": f"every {what} checkpoints",
            "log_spaced": f"{what} log-spaced steps",
        }[how]
    if chosen.get("steps"):
        said = f"steps {min(chosen['steps'])} to {max(chosen['steps'])}"
    return f"{store_name(analysis.store)}: {said}"


def tag(*tags: str) -> None:
    """Tag the present flow run alone: a task's tags would each cost it a request."""
    with _dispensable(), get_client(sync_client=True) as client:
        run_id = UUID(str(flow_run.id))
        present = client.read_flow_run(run_id).tags
        client.update_flow_run(run_id, tags=sorted({*present, *tags}))


class Progress:
    """A bar beside the flow run, moved at most every two seconds."""

    def __init__(self, total: int) -> None:
        self._total, self._moved = total, time.monotonic()
        self._artifact: UUID | None = None
        with _dispensable():
            at = 0.0 if total else 100.0
            made = create_progress_artifact(at, key="progress", description=f"of {total}")
            self._artifact = UUID(str(made))

    def move(self, done: int) -> None:
        """So many of the total are done."""
        if self._artifact is None:
            return
        if done < self._total and time.monotonic() - self._moved < _SECONDS_BETWEEN:
            return
        self._moved = time.monotonic()
        with _dispensable():
            update_progress_artifact(
                self._artifact,
                100 * done / self._total,
                description=f"{done} of {self._total} checkpoints",
            )


def show_table(key: str, table: list[dict[str, Any]], description: str) -> None:
    """Rows with the same columns, beside the flow run."""
    with _dispensable():
        create_table_artifact(table, key=key, description=description)


def show_findings(summary: Summary, page: Path, new: Sequence[str]) -> None:
    """What the store shows, in sentences and small charts, and where its report is."""
    lines = [f"**{summary.sentence()}**", "", summary.loading(), ""]
    if new:
        lines += ["New since the last run:", "", *(f"- **{sentence}**" for sentence in new), ""]
    lines += [*(f"- {sentence}" for sentence in findings(summary.store)), ""]
    lines += ["| quantity | over training | first | last |", "|---|---|---|---|"]
    lines += [
        f"| {line.name} | `{line.chart}` | {line.first} | {line.last} |"
        for line in overview(summary.store)
    ]
    lines += ["", f"Report: `{page.resolve()}`"]
    with _dispensable():
        create_markdown_artifact("\n".join(lines), key="findings", description=summary.store)
        create_link_artifact(page.resolve().as_uri(), key="report", link_text=str(page))


@contextmanager
def _dispensable() -> Iterator[None]:
    try:
        yield
    except (httpx.HTTPError, PrefectHTTPStatusError) as error:
        get_run_logger().warning("not shown, the server did not take it: %s", error)
