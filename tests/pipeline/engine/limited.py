"""Compute each checkpoint with less memory: `python -m tests.pipeline.engine.limited JSON`.

The argument is an analysis. What a checkpoint may take beyond what the process holds
is limited by the kernel. Prints for each what became of it, until there is too little even for
half the batch.
"""

import resource
import sys
from pathlib import Path

from pipeline.analysis.plan import plan
from pipeline.analysis.preflight import prepare
from pipeline.analysis.survey import survey
from pipeline.analysis.worker import Worker
from pipeline.config import Analysis
from pipeline.errors import CheckpointError

MIB = 1 << 20


def main(config: str) -> None:
    analysis = Analysis.model_validate_json(config)
    prepared = prepare(analysis, survey(analysis))
    planned = plan(prepared, {})
    worker = Worker(prepared.job)
    first, *others = planned.cells
    worker.compute(first, planned)
    for mib, cell in zip(range(64, 0, -8), others, strict=False):
        resource.setrlimit(resource.RLIMIT_DATA, (_held() + mib * MIB, resource.RLIM_INFINITY))
        try:
            print("halved" if worker.compute(cell, planned).halved else "whole", flush=True)
        except CheckpointError as error:
            print(error, flush=True)
            return


def _held() -> int:
    """Return the bytes of this process's private writable memory."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmData:")[2].split()[0])


if __name__ == "__main__":
    main(sys.argv[1])
