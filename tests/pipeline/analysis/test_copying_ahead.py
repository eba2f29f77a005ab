"""A worker copies checkpoints to its device while it computes; here the CPU plays the device."""

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import pipeline.analysis.worker
from pipeline import Analysis, analyze, open_run
from pipeline.models.transfer import CopiedAhead, Transfer

CPU = torch.device("cpu")


class Watched(Transfer):
    """A transfer that counts the sets of weights that were copied and are not yet in the model."""

    def __init__(self) -> None:
        super().__init__(CPU, reserve=0)
        self.waiting, self.most, self.copied = 0, 0, 0
        self._lock = threading.Lock()

    def ahead(
        self, weights: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype]
    ) -> Mapping[str, Tensor]:
        with self._lock:
            self.waiting += 1
            self.most = max(self.most, self.waiting)
        made = super().ahead(weights, dtypes)
        self.copied += isinstance(made, CopiedAhead)
        return made

    def await_copies(self, weights: Mapping[str, Tensor]) -> None:
        super().await_copies(weights)
        with self._lock:
            self.waiting -= 1


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    made = Watched()
    monkeypatch.setattr(pipeline.analysis.worker, "transfer_to", lambda device, reserve: made)
    return made


def analysis(run: Path, store: str) -> Analysis:
    inputs = {"repeated": {"kind": "repeated", "block_length": 7, "sequences": 5}}
    content: dict[str, Any] = {
        "checkpoints": str(run),
        "store": str(run.parent / store),
        "inputs": inputs,
        "measures": {"head_scores": {}, "weight_norm": {}},
    }
    return Analysis.model_validate(content)


def test_stored_numbers_are_the_same_and_one_set_waits_at_a_time(
    make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(steps=range(8))
    analyze(analysis(run, "plain"))
    made = Watched()
    monkeypatch.setattr(pipeline.analysis.worker, "transfer_to", lambda device, reserve: made)
    assert analyze(analysis(run, "ahead")).computed == list(range(8))
    assert (made.copied, made.most, made.waiting) == (8, 1, 0)
    with open_run(run.parent / "plain") as plain, open_run(run.parent / "ahead") as ahead:
        for group in ("head_scores", "weight_norm"):
            for name, values in plain[group].data_vars.items():
                np.testing.assert_array_equal(ahead[group][name].values, values.values)


def test_memory_that_runs_out_while_computing_ends_copying_ahead(
    make_run: Callable[..., Path],
    watched: Watched,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run, real, calls = make_run(steps=range(4)), pipeline.analysis.worker.run, iter(range(100))

    def limited(*of: Any, **options: Any) -> Any:
        if next(calls) == 0:
            raise MemoryError("the first batch does not fit")
        return real(*of, **options)

    monkeypatch.setattr(pipeline.analysis.worker, "run", limited)
    with caplog.at_level(logging.WARNING):
        assert analyze(analysis(run, "store")).computed == [0, 1, 2, 3]
    assert "not copied to cpu while it computes: memory ran out while computing" in caplog.text
    assert watched.copied < 4
