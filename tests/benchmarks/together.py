"""False alarms and findings of the answers about several series together.

    OMP_NUM_THREADS=1 python tests/benchmarks/together.py [--draws N] [--seed N] [--json]

Series, noise, schedules and spikes are those of transitions.py, with at least 40 checkpoints.

coincidence: pairs of series with one transition each, at independent places ("independent"), at the
same place ("same"), or 0.2 to 0.5 decades apart ("apart"): the share with p at most 5% under each
null, and of each verdict; how often the lag's 90% interval holds the planted lag.
vestigial: the share of series said to be vestigial, by kind, each judged alone. "rose and fell":
to at most half of the rise.
step_share: shares of steps among series with and without one, and among the nulls that are made of
them.
"""

import argparse
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr
from transitions import NOISES, RATIOS, SCHEDULES, add_spikes, draw, make_noise, sigmoid

from pipeline.aggregate.coincidence import coincidences
from pipeline.aggregate.log_axis import log_steps
from pipeline.aggregate.step_share import step_shares
from pipeline.aggregate.vestigial import LEVEL, vestigial

LONG = [name for name, steps in SCHEDULES.items() if len(steps) >= 40]
STAYING = ("constant", "power law", "exponential", "slow sigmoid", "drift", "rose", "fell")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draws", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    figures = {
        "coincidence": coincidence_figures(given.draws, given.seed),
        "vestigial": vestigial_figures(given.draws, given.seed),
        "step_share": step_figures(given.draws, given.seed),
    }
    print(json.dumps(figures, indent=None if given.json else 1))


def coincidence_figures(draws: int, seed: int) -> dict[str, Any]:
    """Return shares of pairs by kind: p-values, verdicts, and intervals that hold the lag."""
    rng, figures = np.random.default_rng(seed), {}
    for kind in ("independent", "same", "apart"):
        found = list(_pairs(rng, kind, draws))
        judged = [one for one, _ in found if one.sizes["pair"]]
        held = [
            bool(one["lag_low"][0] <= lag <= one["lag_high"][0])
            for one, lag in found
            if one.sizes["pair"] and abs(float(one["lag"][0]) - lag) < 0.3
        ]
        figures[kind] = {
            "judged": len(judged),
            **{p: share([float(one[p][0]) <= LEVEL for one in judged])
               for p in ("p_shift", "p_phase")},
            **{verdict: share([one["verdict"].values[0] == verdict for one in judged])
               for verdict in ("together", "not together", "cannot tell")},
            "interval_coverage": share(held),
        }  # fmt: skip
    return figures


def _pairs(rng: np.random.Generator, kind: str, draws: int) -> Iterator[tuple[xr.Dataset, float]]:
    """Yield what is found of pairs, and their planted lags."""
    for _ in range(draws):
        schedule = str(rng.choice(LONG))
        steps = SCHEDULES[schedule]
        x = log_steps(steps)
        low, high = x[0] + 0.1 * np.ptp(x), x[-1] - 0.1 * np.ptp(x)
        first, second = rng.uniform(low, high, 2)
        if kind != "independent":
            gap = rng.choice([-1, 1]) * rng.uniform(0.2, 0.5) if kind == "apart" else 0.0
            second = first + gap if low <= first + gap <= high else first - gap
        series = {
            name: xr.DataArray(_one_step(rng, x, at), {"step": steps}, "step")
            for name, at in (("a", first), ("b", second))
        }
        yield coincidences(series, draws=199, seed=int(rng.integers(2**31))), second - first


def _one_step(rng: np.random.Generator, x: np.ndarray, at: float) -> np.ndarray:
    width = 10 ** rng.uniform(np.log10(0.02), np.log10(0.6))
    values = rng.choice([-1, 1]) * sigmoid(x, at, width) + rng.uniform(-1, 1) * (x - x[0]) / np.ptp(
        x
    )
    return _noisy(rng, values, float(rng.choice(RATIOS)))


def _noisy(rng: np.random.Generator, clean: np.ndarray, ratio: float) -> np.ndarray:
    values = clean + make_noise(rng, str(rng.choice(NOISES)), len(clean)) / ratio
    if rng.random() < 0.5:
        add_spikes(rng, values)
    return values


def vestigial_figures(draws: int, seed: int) -> dict[str, Any]:
    """Return the share of series of each kind that are said to have risen and fallen."""
    rng, figures, staying = np.random.default_rng(seed), {}, []
    for kind in (*STAYING, "rose and fell", "random walk"):
        hits: list[bool] = []
        for schedule in LONG:
            series = [_series(rng, kind, schedule) for _ in range(max(draws // len(LONG), 1))]
            run = _run(SCHEDULES[schedule], np.stack(series))
            found = vestigial(run, draws=199, seed=seed)
            hits += (np.fmax(found["p_rise"], found["p_fall"]).values <= LEVEL).tolist()
        figures[kind] = share(hits)
        staying += hits if kind in STAYING else []
    return {"false_alarm_share": share(staying), **figures}


def _series(rng: np.random.Generator, kind: str, schedule: str) -> np.ndarray:
    x = log_steps(SCHEDULES[schedule])
    if kind not in ("rose", "fell", "rose and fell"):
        return draw(rng, kind, schedule).values
    span = np.ptp(x)
    up = rng.uniform(x[0] + 0.2 * span, x[-1] - (0.5 if kind == "rose and fell" else 0.2) * span)
    clean = sigmoid(x, up, rng.uniform(0.05, 0.5))
    if kind == "rose and fell":
        down = rng.uniform(up + 0.15 * span, x[-1] - 0.15 * span)
        clean -= rng.uniform(0.5, 1) * sigmoid(x, down, rng.uniform(0.05, 1))
    return _noisy(rng, -clean if kind == "fell" else clean, float(rng.choice(RATIOS)))


def step_figures(draws: int, seed: int) -> dict[str, Any]:
    """Return the shares of steps of series of each kind, and of the nulls made of them."""
    rng, figures = np.random.default_rng(seed), {}
    steps = SCHEDULES["log 150"]
    x = log_steps(steps)
    for kind in ("steps", "smooth curves"):
        series = [
            _noisy(rng, sigmoid(x, rng.uniform(2.5, 4.5), rng.uniform(0.05, 0.5)), 5.0)
            if kind == "steps"
            else draw(rng, str(rng.choice(["power law", "exponential", "slow sigmoid"])),
                      "log 150").values
            for _ in range(draws)
        ]  # fmt: skip
        found = step_shares(_run(steps, np.stack(series)), nulls=draws, seed=seed)
        shares = found["share"].sel(which="changing")
        figures[kind] = {str(k): round(float(shares.sel(kind=k)), 4) for k in shares["kind"].values}
    return figures


def _run(steps: np.ndarray, series: np.ndarray) -> xr.DataTree:
    """Return a run with one layer, of whose heads each has one series, without a null."""
    scores = xr.Dataset(
        {"score": (("step", "layer", "head"), series.T[:, None, :])},
        {"step": steps, "layer": [0], "head": np.arange(len(series))},
    )
    return xr.DataTree.from_dict({"head_scores": scores})


def share(hits: list[bool]) -> float | None:
    """Return the share of True."""
    return round(float(np.mean(hits)), 4) if hits else None


if __name__ == "__main__":
    main()
