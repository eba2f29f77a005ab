"""A process with workers of a device: `python -m tests.gpu.one_worker`, and an analysis a line.

For each line of stdin, an analysis as JSON, it makes the worker and prints "ready"; with the next
line it computes all checkpoints, and prints the seconds and the peak of the device's memory.
"""

import json
import resource
import sys
import time

import torch

from pipeline.analysis.plan import plan
from pipeline.analysis.preflight import prepare
from pipeline.analysis.survey import survey
from pipeline.analysis.worker import Worker
from pipeline.config import Analysis


def main() -> None:
    """Compute one analysis after the other, until stdin ends."""
    torch.backends.cuda.matmul.allow_tf32 = False
    for line in sys.stdin:
        analysis = Analysis.model_validate_json(line)
        prepared = prepare(analysis, survey(analysis))
        worker, planned = Worker(prepared.job), plan(prepared, {})
        print("ready", flush=True)
        sys.stdin.readline()
        began = time.monotonic()
        for cell in planned.cells:
            worker.compute(cell, planned)
        seconds = time.monotonic() - began
        print(json.dumps({"seconds": seconds, "peak": _peak(analysis)}), flush=True)


def _peak(analysis: Analysis) -> int:
    """Return the most bytes that were allocated on the device; on a CPU those of the process."""
    if analysis.workers.device == "cuda":
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
