"""What a run shows of itself in the Prefect UI: tags, progress, and artifacts.

Nothing of it is worth failing or waiting for: a server that is away costs the picture, not the run.
"""

import time
from collections.abc import Callable, Sequence
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

from flows.server import link_to, server_answers
from pipeline.analysis.summary import Summary
from pipeline.config import Analysis
from pipeline.findings import findings
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
    _shown(_add_tags, tags)


def _add_tags(tags: Sequence[str]) -> None:
    with get_client(sync_client=True) as client:
        run_id = UUID(str(flow_run.id))
        present = client.read_flow_run(run_id).tags
        client.update_flow_run(run_id, tags=sorted({*present, *tags}))


class ProgressBar:
    """A bar beside the flow run, moved at most every two seconds."""

    def __init__(self, total: int) -> None:
        self._total, self._moved, self._away = total, time.monotonic(), False
        at = 0.0 if total else 100.0
        self._artifact = _shown(
            create_progress_artifact, at, key="progress", description=f"of {total}"
        )

    def move(self, done: int) -> None:
        """So many of the total are done."""
        if done < self._total and time.monotonic() - self._moved < _SECONDS_BETWEEN:
            return
        self._moved = time.monotonic()
        if self._artifact is None or self._is_away():
            return
        description = f"{done} of {self._total} checkpoints"
        at = 100 * done / self._total
        _taken(update_progress_artifact, self._artifact, at, description=description)

    def _is_away(self) -> bool:
        """Whether the server does not answer; said when it changes."""
        was, self._away = self._away, not server_answers()
        if self._away and not was:
            get_run_logger().warning(
                "the Prefect server does not answer: computing goes on, and it is told later"
            )
        if was and not self._away:
            get_run_logger().info("the Prefect server answers again")
        return self._away


def show_table(key: str, table: list[dict[str, Any]], description: str) -> None:
    """Rows with the same columns, beside the flow run."""
    _shown(create_table_artifact, table, key=key, description=description)


def show_findings(summary: Summary, page: Path, new: Sequence[str]) -> None:
    """What the store shows, in sentences and small charts, and where its report is."""
    lines = [f"**{summary.sentence()}**", "", summary.loading(), ""]
    if exceptions := summary.exceptions():
        lines += [*(f"- **{exception}**" for exception in exceptions), ""]
    if new:
        lines += ["New since the last run:", "", *(f"- **{sentence}**" for sentence in new), ""]
    lines += [f"- {group}: {why}" for group, why in summary.undefined.items()]
    lines += [*(f"- {sentence}" for sentence in findings(summary.store)), ""]
    lines += ["| quantity | over training | first | last |", "|---|---|---|---|"]
    lines += [
        f"| {line.name} | `{line.chart}` | {line.first} | {line.last} |"
        for line in overview(summary.store)
    ]
    lines += ["", f"[Report]({link_to(page)}), `{page.resolve()}`"]
    markdown = "\n".join(lines)
    _shown(create_markdown_artifact, markdown, key="findings", description=summary.store)
    _shown(create_link_artifact, link_to(page), key="report", link_text=str(page))


def _shown(make: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What `make` returns; None where the server is away, or does not take it."""
    return _taken(make, *arguments, **options) if server_answers() else None


def _taken(make: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    try:
        return make(*arguments, **options)
    except (httpx.HTTPError, PrefectHTTPStatusError) as error:
        get_run_logger().warning("not shown, the server did not take it: %s", error)
        return None
