"""Analyse checkpoints while they are being trained: a callback of transformers' Trainer.

>>> from pipeline.callback import OntogenyCallback
>>> callback = OntogenyCallback({"store": "run.zarr", "measures": ["weight_norm"]}, share=0.05)

`Trainer(..., callbacks=[callback])` analyses the run in a process beside the training.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.callback.trainer import OntogenyCallback

__all__ = ["OntogenyCallback"]


def __getattr__(name: str) -> Any:
    # Imported at its first use: the process that watches the analysis needs no transformers.
    if name != "OntogenyCallback":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipeline.callback.trainer import OntogenyCallback

    return OntogenyCallback
