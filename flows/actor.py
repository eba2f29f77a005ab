"""What a Ray actor runs. Sent to it by value, so that nothing of ours must be found there first.

Ray puts the driver's working folder first on an actor's import path, and a `pipeline.py` or a
`flows/` of the user's may lie in it. So this module imports nothing of ours when it is loaded, and
what an actor is made of travels pickled until the right packages are there.
"""

import importlib
import importlib.util
import pickle
import sys
from pathlib import Path
from typing import Any


class WorkerActor:
    """One worker (see `pipeline.analysis.worker`) with the code of the driver; hands its log over.

    start: path of the driver's `ontogeny.py`. code: digest of the driver's code, see
    `flows.workers.code_digest`. payload: the worker's class and its job, pickled.
    """

    def __init__(self, start: str, code: str, payload: bytes) -> None:
        # Kept, not raised: what a constructor raises reaches the driver as text alone.
        self._error: Exception | None = None
        try:
            _import_packages(Path(start))
            workers = importlib.import_module("flows.workers")
            workers.check_code(code)
            self._worker = workers.LoggedWorker(*pickle.loads(payload))
        except Exception as error:
            self._error = error

    def started(self) -> None:
        """Raise what the construction raised, if it did."""
        if self._error is not None:
            raise self._error

    def call(self, method: str, *arguments: Any) -> Any:
        """See `flows.workers.LoggedWorker.call`."""
        return self._worker.call(method, *arguments)


def _import_packages(start: Path) -> None:
    """Import our packages from the driver's folder; on a machine without it, as installed there."""
    if start.is_file():
        spec = importlib.util.spec_from_file_location("ontogeny", start)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["ontogeny"] = module
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module("ontogeny")
    module.import_own_packages()
