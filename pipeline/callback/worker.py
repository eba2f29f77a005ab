"""The process that analyses what a training has saved so far, each time that it is asked to.

It reads requests from stdin, one in a line, and answers each with one line of JSON on stdout:

    {"kind": "looked", "failed": {step: reason}, "masked": [...], "exceptions": [...],
     "notes": [...]}
    {"kind": "failed", "reason": ...}
    {"kind": "findings", "findings": [...], "steps": [...], "last": the answer of the last look}

The last one has a "reason", too, where the results cannot be read.

A failure never ends it. Imports are inside functions, so that they count as its own CPU time.
"""

import ctypes
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

from pipeline.callback.supervisor import FINISH

if TYPE_CHECKING:
    from pipeline.config import Analysis

_PR_SET_PDEATHSIG = 1  # Linux: the signal that a process gets when its parent has ended


def main(settings: str) -> None:
    """Answer requests until stdin ends. settings: JSON, see `Beside`."""
    _end_with_parent()
    parsed: dict[str, Any] = json.loads(settings)
    with suppress(OSError):
        os.nice(parsed["nice"])
    answers = _own_stdout()
    analysis = _analysis(parsed["analysis"])
    for line in sys.stdin:
        task = _finish if line.strip() == FINISH else _look
        answers.write(f"{json.dumps(_answer(task, analysis))}\n")
        answers.flush()


def _end_with_parent() -> None:
    """Let Linux kill this process when the supervisor ends, also while it is stopped."""
    parent = os.getppid()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before it was asked for
        sys.exit(1)


def _own_stdout() -> TextIO:
    """Return stdout for answers alone: what libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _analysis(fields: dict[str, Any]) -> "Analysis":
    from pipeline.config import Analysis

    return Analysis.model_validate(fields)


def _answer(task: "Callable[[Analysis], dict[str, Any]]", analysis: "Analysis") -> dict[str, Any]:
    """Return the answer of a task, or the reason of its failure; a bug's traceback is logged."""
    from pipeline.errors import InputError, first_line

    try:
        return task(analysis)
    except InputError as error:
        return {"kind": "failed", "reason": str(error)}
    except Exception as error:
        traceback.print_exc()
        return {"kind": "failed", "reason": f"{type(error).__name__}: {first_line(error)}"}


def _look(analysis: "Analysis") -> dict[str, Any]:
    """Analyse all checkpoints that are complete now and not in the store."""
    from pipeline.analysis.run import analyze
    from pipeline.checkpoints.left_out import in_lines
    from pipeline.trackers import send_results

    summary = analyze(analysis)
    send_results(analysis, summary)
    return {
        "kind": "looked",
        "failed": summary.failed,
        "masked": sorted(summary.masked),
        "exceptions": [*summary.exceptions(), *summary.not_sent.values()],
        "notes": [
            *(f"left out, {line}" for line in in_lines(summary.left_out)),
            *summary.notes,
            *(f"{group}: {why}" for group, why in summary.undefined.items()),
        ],
    }


def _finish(analysis: "Analysis") -> dict[str, Any]:
    """Analyse what is left, and return what the store then holds."""
    last = _answer(_look, analysis)
    return {
        "findings": [],
        "steps": [],
        **_answer(_stored, analysis),
        "kind": "findings",
        "last": last,
    }


def _stored(analysis: "Analysis") -> dict[str, Any]:
    from pipeline.findings import findings
    from pipeline.query import open_run

    groups = open_run(analysis.store).children.values()
    steps = {int(step) for group in groups for step in group.to_dataset()["step"].values}
    return {"findings": findings(analysis.store), "steps": sorted(steps)}
