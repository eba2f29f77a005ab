"""The demonstration: two organisms are trained, analysed by the flow, and reported on one page."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from flows.analyze import run_analysis
from pipeline.analysis.run import Progress
from pipeline.analysis.summary import Summary
from pipeline.config import load_analysis
from pipeline.findings import findings
from pipeline.report import write_report
from pipeline.training import load_training, train

FOLDER = Path("demo")
PRESETS = ("induction", "modular-addition")

Showing = Callable[[str], AbstractContextManager[Progress]]


@dataclass(frozen=True)
class Demonstration:
    """What it leaves: one summary and the findings of each store, and the page to open."""

    summaries: dict[str, Summary]
    findings: dict[str, list[str]]
    page: Path


def demonstrate(showing: Showing) -> Demonstration:
    """Train, analyse and report into `demo/` of the working directory; what is there is kept.

    showing(what): a context that gives the progress function for one piece of the work.
    """
    for preset in PRESETS:
        _train(preset, showing)
    summaries = {preset: _analyze(preset, showing) for preset in PRESETS}
    stores = [summary.store for summary in summaries.values()]
    page = write_report(stores, FOLDER / "report")
    return Demonstration(summaries, {p: findings(s.store) for p, s in summaries.items()}, page)


def _train(preset: str, showing: Showing) -> None:
    output = str(FOLDER / "checkpoints" / preset)
    training = load_training(preset).model_copy(update={"output": output})
    with showing(f"train {preset}") as step:
        train(training, lambda done, total, loss: step(done, total, f"loss {loss:.3g} nats"))


def _analyze(preset: str, showing: Showing) -> Summary:
    places = {
        "checkpoints": str(FOLDER / "checkpoints" / preset),
        "store": str(FOLDER / f"{preset}.zarr"),
    }
    with showing(f"analyse {preset}") as step:
        return run_analysis(load_analysis(preset).model_copy(update=places), step)
