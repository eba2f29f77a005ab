"""The demonstration: train two small models, analyse both runs, and write one report."""

from dataclasses import dataclass
from pathlib import Path

from flows.analyze import run_analysis
from flows.console import ShowProgress, loss_progress
from pipeline.analysis.summary import Summary
from pipeline.config import load_analysis
from pipeline.findings import findings
from pipeline.report import write_report
from pipeline.training import load_training, train

FOLDER = Path("demo")
PRESETS = ("induction", "modular-addition")


@dataclass(frozen=True)
class DemoResult:
    """The summary and the findings of each preset, and the page of the report."""

    summaries: dict[str, Summary]
    findings: dict[str, list[str]]
    page: Path


def run_demo(show_progress: ShowProgress) -> DemoResult:
    """Train, analyse and report into `demo/` of the working directory.

    Checkpoints and results that are there are kept. show_progress: see `flows.console`.
    """
    for preset in PRESETS:
        _train(preset, show_progress)
    summaries = {preset: _analyze(preset, show_progress) for preset in PRESETS}
    stores = [summary.store for summary in summaries.values()]
    page = write_report(stores, FOLDER / "report")
    return DemoResult(summaries, {p: findings(s.store) for p, s in summaries.items()}, page)


def _train(preset: str, show_progress: ShowProgress) -> None:
    output = str(FOLDER / "checkpoints" / preset)
    training = load_training(preset).model_copy(update={"output": output})
    with show_progress(f"train {preset}", "steps") as progress:
        train(training, loss_progress(progress))


def _analyze(preset: str, show_progress: ShowProgress) -> Summary:
    paths = {
        "checkpoints": str(FOLDER / "checkpoints" / preset),
        "store": str(FOLDER / f"{preset}.zarr"),
    }
    with show_progress(f"analyse {preset}", "checkpoints") as progress:
        return run_analysis(load_analysis(preset).model_copy(update=paths), progress, progress.tell)
