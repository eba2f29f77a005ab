"""Shares of random walks and of planted corners for which `find_corner` reports a corner.

    python tests/benchmarks/corners.py [--json]

Walks have even or uneven (log-normal) step lengths; they are judged against the same null as a
trajectory with these lengths. Planted corners turn by 90 degrees in the middle of 40 checkpoints of
1,000 tokens, with noise of 1 to 3 times the length of a move: independent at each checkpoint
("fluctuation"), or a random walk in 50 dimensions ("drift").
"""

import argparse
import json
import os
from itertools import product

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import xarray as xr

from pipeline.aggregate.corner import LEVEL, find_corner
from pipeline.aggregate.loss_space import component_space
from pipeline.aggregate.two_lines import statistics
from pipeline.aggregate.walk_null import DIMENSIONS, projected_walks

CHECKPOINTS, WALKS_IN = (40, 100, 200), (2, 5, 10, 20, 50, 300, 1000)
_TOKENS, _DRIFT = 1000, 50  # dimensions


def walks_reported(count: int = 100, simulations: int = 200) -> dict[str, dict[int, float]]:
    """Return the share of walks that are reported, by checkpoints and lengths, by dimensions."""
    rng = np.random.default_rng(0)
    found = {}
    for size, kind in product(CHECKPOINTS, ("even", "uneven")):
        lengths = np.exp(rng.standard_normal(size - 1) * (kind == "uneven"))
        null = np.stack(
            [statistics(projected_walks(lengths, one, 2, rng, simulations))[0]
             for one in DIMENSIONS]
        )  # fmt: skip
        fresh = [statistics(projected_walks(lengths, one, 2, rng, count))[0] for one in WALKS_IN]
        found[f"{size} {kind}"] = {
            dimensions: float((_p_values(null, one) <= LEVEL).mean())
            for dimensions, one in zip(WALKS_IN, fresh, strict=True)
        }
    return found


def _p_values(null: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return the largest p-value over dimensions of each statistic; null: dimensions, walk."""
    reached = (null[:, :, None] >= found).sum(axis=1)
    return ((1 + reached) / (1 + null.shape[1])).max(axis=0)


def corners_found(count: int = 20) -> dict[str, float]:
    """Return the share of planted corners that are reported within 2 checkpoints of their place."""
    return {
        f"{kind} {noise}": float(np.mean([_found(planted(kind, noise, i)) for i in range(count)]))
        for kind, noise in product(("fluctuation", "drift"), (1, 2, 3))
    }


def planted(kind: str, noise: float, seed: int, size: int = 40) -> xr.DataArray:
    """Return losses that turn in the middle; noise: root mean square length, in moves."""
    rng = np.random.default_rng(seed)
    i, middle = np.arange(size), size // 2
    path = np.stack([np.minimum(i, middle), np.maximum(i - middle, 0)], axis=1)
    columns = _TOKENS if kind == "fluctuation" else _DRIFT
    losses = noise * rng.standard_normal((size, columns)) / np.sqrt(columns)
    if kind == "drift":
        losses = losses.cumsum(axis=0)
    losses[:, :2] += path
    return xr.DataArray(losses, {"step": i}, ("step", "token"))


def _found(losses: xr.DataArray) -> bool:
    found = find_corner(component_space({"run": losses}), simulations=60).sel(window="whole")
    return bool(abs(found["step"] - losses.sizes["step"] // 2) <= 2)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    found = {"walks_reported": walks_reported(), "corners_found": corners_found()}
    print(json.dumps(found, indent=None if parser.parse_args().json else 1))


if __name__ == "__main__":
    main()
