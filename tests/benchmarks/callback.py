"""Measure what the callback of transformers' Trainer costs the training.

    python tests/benchmarks/callback.py [PAIRS] [STEPS]

Each pair trains the same small model with and without the callback (at its default share), in
turns, and compares the wall time and the CPU time of the training's own process from its first to
its last step; the end of the training, which waits for the analysis, is not part of it. Printed are
the ratios of each pair and their medians, and the CPU time of the processes beside the training in
seconds per second.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import TrainerCallback

from pipeline.callback import OntogenyCallback
from tests.pipeline.callback.training import ANALYSIS, trainer

_SAVES = 5


class Clock(TrainerCallback):
    """Times a training, and what runs beside it."""

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start."""
        self.began, self.own = time.perf_counter(), time.process_time()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Stop, before the callback of the analysis waits."""
        self.wall = time.perf_counter() - self.began
        self.cpu = time.process_time() - self.own
        times = [one.cpu_times() for one in psutil.Process().children(recursive=True)]
        self.beside = sum(one.user + one.system for one in times)


def train(folder: Path, steps: int, with_it: bool) -> tuple[Clock, list[float]]:
    """Train once; return the times and the loss of each logged step."""
    clock = Clock()
    analysis = {**ANALYSIS, "store": f"{folder}.zarr"}
    more = [OntogenyCallback(analysis, say=lambda line: None)] if with_it else []
    saves = steps // _SAVES
    one = trainer(folder, [clock, *more], steps, layers=4, width=128, save_steps=saves)
    one.train()
    return clock, [entry["loss"] for entry in one.state.log_history if "loss" in entry]


def main(pairs: int, steps: int) -> None:
    """Print a line for each pair, and the medians."""
    torch.set_num_threads(1)
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder) / "first", 10, False)  # what is loaded once
        for pair in range(pairs):
            order = (False, True) if pair % 2 else (True, False)
            done = {one: train(Path(folder) / f"{pair}-{one}", steps, one) for one in order}
            (plain, losses), (timed, same) = done[False], done[True]
            ratios.append((timed.wall / plain.wall, timed.cpu / plain.cpu))
            print(
                f"pair {pair + 1}: wall {ratios[-1][0]:.3f}, CPU {ratios[-1][1]:.3f} of the "
                f"training without it ({plain.wall:.1f} s); beside it "
                f"{timed.beside / timed.wall:.3f} CPU seconds per second; losses "
                f"{'identical' if losses == same else 'DIFFER'}",
                flush=True,
            )
    wall, cpu = (statistics.median(each) for each in zip(*ratios, strict=True))
    print(f"median of {pairs} pairs: wall {wall:.3f}, CPU {cpu:.3f}")


if __name__ == "__main__":
    main(*(int(given) for given in (sys.argv[1:] + ["5", "300"][len(sys.argv) - 1 :])))
