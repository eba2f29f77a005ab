"""Time and memory of the principal components of losses, beside those of their Gram matrix alone.

    python tests/benchmarks/loss_space.py [--json]

200 checkpoints of 131,072 losses in float32, on one thread of BLAS.
"""

import argparse
import json
import os
import time
import tracemalloc
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import xarray as xr

from pipeline.aggregate.loss_space import component_space

CHECKPOINTS, SEQUENCES, POSITIONS = 200, 128, 1024
_TOGETHER = 1310  # tokens of a block, about as many as the components take at a time


def pca_over_gram(repeats: int = 15) -> dict[str, float]:
    """Return the CPU time of the components over that of the Gram matrix, and megabytes beyond.

    Both alternate, and the least of each counts: other work on the machine only adds to it.
    """
    losses = draw()
    gram, components = np.inf, np.inf
    for _ in range(repeats):
        gram = min(gram, _cpu(lambda: gram_alone(losses)))
        components = min(components, _cpu(lambda: component_space({"run": losses})))
    tracemalloc.start()
    component_space({"run": losses})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "pca_over_gram": round(components / gram, 3),
        "pca_cpu_seconds": round(components, 3),
        "pca_megabytes": round(peak / 1e6, 1),
    }


def draw() -> xr.DataArray:
    """Return random losses."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((CHECKPOINTS, SEQUENCES, POSITIONS), dtype=np.float32) + 5
    dims = ("step", "sequence", "position")
    return xr.DataArray(values, dims=dims, coords={"step": np.arange(CHECKPOINTS)})


def gram_alone(losses: xr.DataArray) -> np.ndarray:
    """Return the Gram matrix in float64, summed over blocks of tokens, and nothing else."""
    rows = losses.values.reshape(CHECKPOINTS, -1)
    total = np.zeros((CHECKPOINTS, CHECKPOINTS))
    room = np.empty((CHECKPOINTS, _TOGETHER))
    for start in range(0, rows.shape[1], _TOGETHER):
        part = rows[:, start : start + _TOGETHER]
        block = room[:, : part.shape[1]]
        block[...] = part
        total += block @ block.T
    return total


def _cpu(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    figures = pca_over_gram()
    print(json.dumps(figures, indent=None if parser.parse_args().json else 1))


if __name__ == "__main__":
    main()
