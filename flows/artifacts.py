"""Tags, progress and artifacts of a flow run in the Prefect UI.

A run neither fails nor waits because of them: if the server is unreachable, they are left out.
"""

import hashlib
import re
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

from flows.server import is_server_reachable, report_link
from pipeline.analysis.summary import Summary
from pipeline.config import Analysis
from pipeline.findings import findings
from pipeline.printable import markdown, printable
from pipeline.report.sparklines import overview
from pipeline.store.store_names import store_name

# Each update is a request to the server. With one per checkpoint, a run of many short checkpoints
# would spend most of its time on them.
_SECONDS_BETWEEN_UPDATES = 2.0
_LONGEST_NAME = 60  # characters of a store's name in a key


def run_name(analysis: Analysis) -> str:
    """Return the name of a flow run: which run is analysed, and at which steps."""
    chosen = {} if analysis.select is None else analysis.select.model_dump(exclude_none=True)
    steps = "all steps"
    for how, what in chosen.items():
        steps = {
            "steps": f"steps {what}",
            "every": f"every {what} checkpoints",
            "log_spaced": f"{what} log-spaced steps",
        }[how]
    if chosen.get("steps"):
        steps = f"steps {min(chosen['steps'])} to {max(chosen['steps'])}"
    return printable(f"{store_name(analysis.store)}: {steps}")


def tag(*tags: str) -> None:
    """Add tags to the current flow run, if there is one.

    Prefect's context manager `tags` would also tag each task run, at one request each.
    """
    if flow_run.id:
        _if_reachable(_add_tags, [printable(one) for one in tags])


def _add_tags(tags: Sequence[str]) -> None:
    with get_client(sync_client=True) as client:
        run_id = UUID(str(flow_run.id))
        present = client.read_flow_run(run_id).tags
        client.update_flow_run(run_id, tags=sorted({*present, *tags}))


class ProgressBar:
    """A progress artifact of the flow run, updated at most every two seconds."""

    def __init__(self, store: str, total: int) -> None:
        self._total, self._updated, self._unreachable = total, time.monotonic(), False
        at, key = 0.0 if total else 100.0, artifact_key("progress", store)
        self._artifact = _if_reachable(
            create_progress_artifact, at, key=key, description=f"of {total}"
        )

    def move(self, done: int) -> None:
        """Show that so many of the total are done."""
        if done < self._total and time.monotonic() - self._updated < _SECONDS_BETWEEN_UPDATES:
            return
        self._updated = time.monotonic()
        if self._artifact is None or self._is_server_away():
            return
        description = f"{done} of {self._total} checkpoints"
        at = 100 * done / self._total
        _if_accepted(update_progress_artifact, self._artifact, at, description=description)

    def _is_server_away(self) -> bool:
        """Return whether the server is unreachable; log each change of that once."""
        before, self._unreachable = self._unreachable, not is_server_reachable()
        if self._unreachable and not before:
            get_run_logger().warning(
                "the Prefect server does not answer: computing continues, and its records are sent "
                "later"
            )
        if before and not self._unreachable:
            get_run_logger().info("the Prefect server answers again")
        return self._unreachable


def show_table(key: str, table: list[dict[str, Any]], description: str) -> None:
    """Create a table artifact of rows with the same columns."""
    shown = [{name: _cell(value) for name, value in row.items()} for row in table]
    _if_reachable(create_table_artifact, shown, key=key, description=markdown(description))


def show_findings(summary: Summary, page: Path, new: Sequence[str]) -> None:
    """Create an artifact with the findings and small charts, and a link to the report."""
    lines = [f"**{markdown(summary.sentence())}**", "", markdown(summary.loading()), ""]
    if exceptions := summary.exceptions():
        lines += [*(f"- **{markdown(exception)}**" for exception in exceptions), ""]
    if new:
        lines += [
            "New since the last run:",
            "",
            *(f"- **{markdown(sentence)}**" for sentence in new),
            "",
        ]
    lines += [f"- {markdown(f'{group}: {why}')}" for group, why in summary.undefined.items()]
    lines += [*(f"- {markdown(sentence)}" for sentence in findings(summary.store)), ""]
    lines += ["| quantity | over training | scale | first | last |", "|---|---|---|---|---|"]
    lines += [
        f"| {markdown(line.name)} | `{line.chart}` | {line.scale} | {line.first} | {line.last} |"
        for line in overview(summary.store)
    ]
    lines += ["", f"[Report](<{_link_to(page)}>), {markdown(str(page.resolve()))}"]
    _if_reachable(
        create_markdown_artifact,
        "\n".join(lines),
        key=artifact_key("findings", summary.store),
        description=markdown(summary.store),
    )
    show_report(summary.store, page)


def show_report(store: str, page: Path) -> None:
    """Create an artifact that links to the report of a store."""
    _if_reachable(
        create_link_artifact,
        _link_to(page),
        key=artifact_key("report", store),
        link_text=markdown(str(page)),
        description=markdown(store),
    )


def _link_to(page: Path) -> str:
    """Return the link to a report; that of its file, with a warning, where it cannot be served."""
    try:
        return report_link(page)
    except OSError as error:
        get_run_logger().warning("the report is not served beside the UI: %s", error)
        return page.resolve().as_uri()


def artifact_key(kind: str, store: str) -> str:
    """Return the key of a store's artifact of a kind, such as "report-induction-1f0c93ab".

    Prefect shows the newest artifact of each key, so that each store has its own. The digits are of
    its address, since two stores may have one name; keys consist of small letters, digits and
    dashes.
    """
    name = re.sub(r"[^a-z0-9]+", "-", store_name(store).lower())[:_LONGEST_NAME].strip("-")
    address = store if "://" in store else str(Path(store).resolve())
    digest = hashlib.sha256(address.rstrip("/").encode()).hexdigest()[:8]
    return "-".join(filter(None, (kind, name, digest)))


def _cell(value: Any) -> Any:
    """Return a cell of a table, whose texts the page shows as they are."""
    return printable(value) if isinstance(value, str) else value


def _if_reachable(request: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Make a request if the server is reachable; return its result, or None."""
    return _if_accepted(request, *arguments, **options) if is_server_reachable() else None


def _if_accepted(request: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Make a request; return its result, or None with a warning if the server refuses it."""
    try:
        return request(*arguments, **options)
    except (httpx.HTTPError, PrefectHTTPStatusError) as error:
        get_run_logger().warning("not shown, the server did not accept it: %s", error)
        return None
