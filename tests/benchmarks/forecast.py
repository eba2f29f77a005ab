"""Threshold and forecast of generalisation, over fifteen runs of modular addition.

    python tests/benchmarks/forecast.py [--json] [--folder runs/grokking-forecast] [--sweep FILE]

Trains the runs of examples/grokking-forecast.yaml into the folder, analyses them one after the
other, and prints the tables of docs/grokking.md. What the folder has already is used again. With
one thread, training takes about 8 minutes of processor time and the analysis about 2. The first
table says at which value of a measure generalisation follows, the second how well its step is
predicted from a prefix of the run.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from pipeline.aggregate.backtest import backtest, default_predictors
from pipeline.aggregate.logit_components import logit_gram
from pipeline.aggregate.outcomes import series_of
from pipeline.aggregate.scoring import BETTER, WORSE
from pipeline.aggregate.threshold import calibrate

HERE = Path(__file__).parent
SWEEP = HERE.parents[1] / "examples" / "grokking-forecast.yaml"
MEASURES = (
    "modular_addition",
    "weight_norm",
    "excluded_loss",
    "table_logits",
)
MARKS = {BETTER: " **+**", WORSE: " −"}


def collection(sweep: Path, folder: Path) -> dict[str, xr.Dataset]:
    """Train and analyse what is missing, and return the series of every run by its name."""
    # Imported here: the tables can be made without torch.
    from pipeline.training import train
    from pipeline.training.sweep import load_trainings

    runs = {}
    for training in load_trainings(sweep):
        name = Path(training.output).name
        print(name, file=sys.stderr)
        placed = training.model_copy(update={"output": str(folder / "runs" / name)})
        store = analysed(train(placed), folder / "stores" / f"{name}.zarr")
        runs[name] = series(store, {"train_share": training.task.train_share})
    return runs


def analysed(run: Path, store: Path) -> str:
    """Analyse a run in this process, with one thread, and return its store."""
    from pipeline.analysis.run import analyze
    from pipeline.config import Analysis

    analyze(
        Analysis.model_validate(
            {
                "checkpoints": str(run),
                "store": str(store),
                "measures": list(MEASURES),
                "workers": {"threads": 1},
            }
        )
    )
    return str(store)


def series(store: str, settings: Mapping[str, float]) -> xr.Dataset:
    """Return the series of a run, with the Gram matrix of its logits."""
    from pipeline.query import open_run

    groups = {name: group.to_dataset() for name, group in open_run(store).children.items()}
    found = series_of(groups, settings).load()
    own = groups["table_logits"]
    found["restricted_loss_own_keys"] = own["restricted_loss_own_keys"].reset_coords(drop=True)
    found["logit_gram"] = logit_gram(own["logits"].reset_coords(drop=True).load())
    return found


def tables(runs: Mapping[str, xr.Dataset]) -> tuple[xr.Dataset, xr.Dataset]:
    """Return thresholds and backtest."""
    return calibrate(runs), backtest(runs, default_predictors(("train_share",)))


def page(thresholds: xr.Dataset, tested: xr.Dataset) -> str:
    """Return both tables and their verdicts as Markdown."""
    steps = np.sort(thresholds["generalised"].values)
    lines = [
        f"{len(steps)} runs generalised, at steps {steps[0]:g} to {steps[-1]:g} (median "
        f"{np.median(steps):g}); {thresholds.attrs['runs_censored']} did not, and "
        "calibrate nothing.",
        "",
        *threshold_rows(thresholds),
        "",
        *backtest_rows(tested),
        "",
        *sentences(tested),
    ]
    return "\n".join(lines)


def threshold_rows(found: xr.Dataset) -> list[str]:
    """Return the table of thresholds, the baseline last."""
    rows = [
        "| measure | threshold (lowest–highest level) | CV | p | factor of error [95%] | worst "
        "| step | passed without generalising |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in found["measure"].values:
        one = found.sel(measure=name)
        level = one["level"].values
        rows.append(
            f"| `{name}` | {one['threshold'].item():.3g} ({np.nanmin(level):.3g}–"
            f"{np.nanmax(level):.3g}) | {one['variation'].item():.2f} "
            f"| {one['permutation_p'].item():.2g} | {_median(one)} "
            f"| {one['worst_factor'].item():.2f} | {one['step_verdict'].item()} "
            f"| {one['censored_past'].item():g} of {found.sizes['censored']} |"
        )
    factor = found["baseline_factor"].values
    rows.append(
        f"| others' mean step | | | | {np.median(factor):.2f} | {factor.max():.2f} "
        "| the baseline | |"
    )
    return rows


def backtest_rows(tested: xr.Dataset) -> list[str]:
    """Return the table of forecasts, a column for each prefix; leaky predictors last.

    refuted: forecasts for runs that did not generalise that lie within the run.
    """
    prefixes = tested["prefix"].values
    asked = tested["asked"][0].values
    heads = [f"{name} ({count} runs)" for name, count in zip(prefixes, asked, strict=True)]
    heads = ["predictor", *heads, "refuted"]
    rows = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    order = np.argsort(tested["leaky"].values, kind="stable")
    for one in (tested.isel(predictor=i) for i in order):
        name = str(one["predictor"].item()) + (", leaky" if one["leaky"] else "")
        cells = [_cell(one.isel(prefix=j), asked[j]) for j in range(len(prefixes))]
        cells.append(f"{int(one['refuted'].sum())} of {int(one['censored_asked'].sum())}")
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return rows


def sentences(tested: xr.Dataset) -> list[str]:
    """Return what predicts nowhere, and how many verdicts chance would give."""
    verdicts = tested["verdict"].values[1:]
    names = [f"`{name}`" for name in tested["predictor"].values[1:]]
    better = (verdicts == BETTER).any(axis=1)
    nowhere = [name for name, good in zip(names, better, strict=True) if not good]
    return [
        f"Better than the baseline at no prefix: {', '.join(nowhere) or 'none'}.",
        "",
        f"{np.count_nonzero(verdicts == BETTER)} of {verdicts.size} verdicts are "
        f"'{BETTER}'; if nothing predicted, at most {0.025 * verdicts.size:.1f} would be expected.",
    ]


def _median(one: xr.Dataset) -> str:
    low, high = one["median_factor_low"].item(), one["median_factor_high"].item()
    return f"{one['median_factor'].item():.2f} [{low:.2f}–{high:.2f}]"


def _cell(one: xr.Dataset, asked: int) -> str:
    """Return median, interval and worst factor, the mark of the verdict, and the runs if fewer."""
    count = int(one["asked"])
    if not count:
        return "–"
    mark = MARKS.get(str(one["verdict"].item()), "")
    fewer = f", {count} runs" if count < asked else ""
    return f"{_median(one)} ({one['worst_factor'].item():.1f}{fewer}){mark}"


def as_json(thresholds: xr.Dataset, tested: xr.Dataset) -> dict[str, Any]:
    """Return the numbers of both tables; infinite ones as "inf", undefined ones as null."""
    rows = {}
    for name, found, dims in (
        ("thresholds", thresholds, ("measure",)),
        ("backtest", tested, ("predictor", "prefix")),
    ):
        wanted = [key for key, array in found.data_vars.items() if array.dims == dims]
        frame = found[wanted].to_dataframe().reset_index()
        rows[name] = [{k: _plain(v) for k, v in row.items()} for row in frame.to_dict("records")]
    counts = {key: tested.attrs[key] for key in ("runs_generalised", "runs_censored")}
    return {**counts, **rows}


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not np.isfinite(value):
        return "inf" if value > 0 else None
    return value


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("runs/grokking-forecast"))
    parser.add_argument("--sweep", type=Path, default=SWEEP)
    given = parser.parse_args()
    thresholds, tested = tables(collection(given.sweep, given.folder.resolve()))
    if given.json:
        print(json.dumps(as_json(thresholds, tested), allow_nan=False))
    else:
        print(page(thresholds, tested))


if __name__ == "__main__":
    main()
