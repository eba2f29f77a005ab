"""The Trainer's own log of a run as a dataset, beside the groups of measures."""

from contextlib import suppress

import numpy as np
import xarray as xr

from pipeline.query.run import open_run
from pipeline.store import OldLayoutError, Store
from pipeline.store.trainer_log import FOLDER as GROUP
from pipeline.store.trainer_log import load_trainer_log

_MEANINGS = {
    "loss": ("nats", "training loss, averaged by the Trainer over the steps since its last entry"),
    "eval_loss": ("nats", "loss on the Trainer's evaluation set"),
    "learning_rate": ("1", "learning rate"),
    "grad_norm": ("1", "norm of the gradient before clipping"),
}
_NAN = "NaN where none was logged at that step, or no finite one"


def trainer_log(store: str | Store) -> xr.Dataset | None:
    """Return what transformers' Trainer logged, by its own steps; None where none is stored.

    Variables: `loss` and `eval_loss` (nats), `learning_rate`, `grad_norm`, each over "step", as far
    as they were logged. Steps are those of the Trainer's log, not of checkpoints. Raises InputError
    where there is no store.
    """
    place = store if isinstance(store, Store) else Store(str(store))
    place.version()
    log = load_trainer_log(place.objects)
    if log is None:
        return None
    variables = {
        name: xr.Variable("step", np.array(of), _attributes(name))
        for name, of in log.values.items()
    }
    steps = {"step": np.array(log.steps, dtype=np.int64)}
    about = {"source": log.source, "left_out": list(log.left_out), "measure": GROUP}
    return xr.Dataset(variables, steps, about)


def open_with_trainer_log(uri: str) -> xr.DataTree:
    """Open a store as `open_run` does, with the group "trainer_log" where there is such a log."""
    tree = open_run(uri)
    with suppress(OldLayoutError):  # stores of layout 1 have no log
        log = trainer_log(uri)
        if log is not None:
            tree[GROUP] = xr.DataTree(log)
    return tree


def _attributes(name: str) -> dict[str, str]:
    unit, meaning = _MEANINGS[name]
    definition = f"{meaning}; {_NAN}"
    return {
        "long_name": name.replace("_", " "),
        "units": unit,
        "unit": unit,
        "definition": definition,
    }
