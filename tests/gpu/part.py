"""Runs one part of the check in this process: `check` starts one for each, with JSON in its argv.

An error of CUDA ends a process's context, so that parts must not share one.
"""

import importlib
import json
import sys
import traceback
from pathlib import Path

from tests.gpu.report import LAST_CHARACTERS, Report


def main(module: str, part: str, device: str, small: bool, out: str, until: float) -> int:
    """Run `run(report)` of a module. Returns 1 if it failed, after a line that says so."""
    report = Report(part, device, small, Path(out), until)
    try:
        importlib.import_module(module).run(report)
    except Exception as error:
        report.fail(
            f"{type(error).__name__} in {module}", traceback.format_exc()[-LAST_CHARACTERS:]
        )
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main(**json.loads(sys.argv[1])))
