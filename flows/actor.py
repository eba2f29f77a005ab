"""The class of the Ray actors. Ray sends it by value, so an actor needs no import of ours for it.

Ray puts the driver's working folder first on an actor's import path, and that folder may contain a
`pipeline.py` or a `flows/` of the user. Therefore this module imports nothing of ours when it is
loaded, and the actor's arguments stay pickled until the right packages are imported.
"""

import gc
import importlib
import importlib.util
import pickle
import sys
from pathlib import Path
from typing import Any


class WorkerActor:
    """A worker (see `pipeline.analysis.worker`) that runs the driver's code and returns its logs.

    start: path of the driver's `ontogeny.py`. code: digest of the driver's code, see
    `flows.driver_code.code_digest`. payload: the worker's class and its job, pickled.
    """

    def __init__(self, start: str, code: str, payload: bytes) -> None:
        # Kept for `ready`: Ray passes an exception of a constructor to the driver only as text.
        self._error: Exception | None = None
        gc.disable()  # as in `flows.collector`
        try:
            _import_packages(Path(start))
            importlib.import_module("flows.driver_code").check_code(code)
            logged = importlib.import_module("flows.worker_logs").LoggedWorker
            self._worker = logged(*pickle.loads(payload))
        except Exception as error:
            self._error = error
        finally:
            gc.freeze()
            gc.enable()

    def ready(self) -> None:
        """Return when the worker is constructed. Raises the exception of its construction."""
        if self._error is not None:
            raise self._error

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the worker; see `flows.worker_logs.LoggedWorker.call`."""
        return self._worker.call(method, *arguments)


def _import_packages(start: Path) -> None:
    """Import our packages from the driver's folder, or the installed ones if that is not here."""
    if start.is_file():
        spec = importlib.util.spec_from_file_location("ontogeny", start)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["ontogeny"] = module
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module("ontogeny")
    module.import_own_packages()
