"""A worker copies checkpoints to its device while it computes; here the CPU plays the device."""

import logging
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import pipeline.analysis.contexts
import pipeline.analysis.worker
from pipeline import Analysis, analyze, open_run
from pipeline.models.transfer import CopiedAhead, Transfer
from tests.simulated_cuda import simulated_cuda
from tests.simulated_device import CUDA

CPU = torch.device("cpu")


class Watched(Transfer):
    """A transfer that counts the sets of weights that were copied and are not yet in the model."""

    def __init__(self, device: torch.device = CPU) -> None:
        super().__init__(device, reserve=0)
        self.waiting, self.most, self.copied = 0, 0, 0
        self.last: list[weakref.ref[Tensor]] = []  # the tensors of the last copies
        self._lock = threading.Lock()

    def ahead(
        self, weights: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype]
    ) -> Mapping[str, Tensor]:
        with self._lock:
            self.waiting += 1
            self.most = max(self.most, self.waiting)
        made = super().ahead(weights, dtypes)
        if isinstance(made, CopiedAhead):
            self.last = [weakref.ref(made[name]) for name in dtypes]
            self.copied += 1
        return made

    def await_copies(self, weights: Mapping[str, Tensor]) -> None:
        super().await_copies(weights)
        with self._lock:
            self.waiting -= 1


def analysis(run: Path, store: str, device: str = "cpu") -> Analysis:
    inputs = {"repeated": {"kind": "repeated", "block_length": 7, "sequences": 5}}
    content: dict[str, Any] = {
        "checkpoints": str(run),
        "store": str(run.parent / store),
        "inputs": inputs,
        "measures": {"head_scores": {}, "weight_norm": {}},
        "workers": {"device": device},
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
    assert_equal(run.parent / "ahead", run.parent / "plain")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_memory_of_the_next_checkpoint_is_freed_and_it_is_computed(
    make_run: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    device: str,
) -> None:
    """The numbers are those of a worker that copies nothing ahead and runs out of memory too."""
    run, real = make_run(steps=range(4)), pipeline.analysis.contexts.run

    def analysed(store: str, sender: Watched | None) -> list[int]:
        """Analyse with memory that runs out; return how many copies were left at each pass."""
        left: list[int] = []

        def limited(*of: Any) -> Any:
            if not left and sender is not None:
                await_second(sender)
            left.append(sum(one() is not None for one in sender.last) if sender else 0)
            if len(left) == 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return real(*of)

        monkeypatch.setattr(pipeline.analysis.worker, "transfer_to", lambda *_: sender)
        monkeypatch.setattr(pipeline.analysis.contexts, "run", limited)
        assert analyze(analysis(run, store, device)).computed == [0, 1, 2, 3]
        return left

    with simulated_cuda() if device == "cuda" else nullcontext():
        analysed("plain", None)
        watched = Watched(CUDA if device == "cuda" else CPU)
        with caplog.at_level(logging.WARNING):
            found = analysed("ahead", watched)
    assert found[0] > 0 and set(found[1:]) == {0}
    assert (watched.copied, watched.most, watched.waiting) == (2, 1, 0)
    assert "while it computes: memory ran out while computing" in caplog.text
    assert "ahead are moved to main memory, freeing" in caplog.text
    assert_equal(run.parent / "ahead", run.parent / "plain")


def assert_equal(store: Path, expected: Path) -> None:
    with open_run(expected) as plain, open_run(store) as found:
        for group in ("head_scores", "weight_norm"):
            for name, values in plain[group].data_vars.items():
                np.testing.assert_array_equal(found[group][str(name)].values, values.values)


def await_second(sender: Watched) -> None:
    """Wait until the next checkpoint is on the device too."""
    end = time.monotonic() + 60
    while sender.copied < 2:
        assert time.monotonic() < end
        time.sleep(0.01)
