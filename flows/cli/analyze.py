"""The commands `ontogeny analyze` and `ontogeny demo`."""

import io
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.app import Json, app
from flows.cli.output import print_table, say, say_json
from flows.cli.run_options import print_left_out
from pipeline.errors import InputError
from pipeline.extras import require

if TYPE_CHECKING:
    from flows.console import Shown
    from pipeline.analysis.estimate import Estimate
    from pipeline.analysis.preflight import FaultsOf
    from pipeline.analysis.summary import Summary
    from pipeline.config import Analysis


@app.command()
def demo() -> None:
    """Train two small models into ./demo, analyse all checkpoints, and print what formed when."""
    from flows.console import show_progress

    with show_progress("demo") as progress:
        progress.tell("loading torch and Prefect")
        from flows.demo import run_demo

    # Ray prints messages of its workers to stdout; their errors are part of the summaries.
    with redirect_stdout(io.StringIO()):
        result = run_demo(show_progress)
    for preset, sentences in result.findings.items():
        say("")
        say(preset)
        for sentence in sentences:
            say(f"  - {sentence}")
    say("")
    say(f"Report: {result.page}")
    say("The runs in Prefect: open the link that `ontogeny ui` prints")
    _exit_on_failure(*result.summaries.values())


@app.command()
def analyze(
    config: Annotated[
        str | None, typer.Argument(help="A YAML file, or the name of a preset.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="A packaged analysis, instead of a file.")
    ] = None,
    serial: Annotated[
        bool, typer.Option("--serial", help="Compute in this process, without Ray and Prefect.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print what it takes and all that is wrong, and compute nothing."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Compute what the store lacks, write the report, and print the findings.

    This runs a Prefect flow on Ray workers. With --serial it computes one checkpoint after another
    in this process, like the function pipeline.analyze. Both write the same store.
    """
    if (config is None) == (preset is None):
        raise InputError("analyze: give a YAML file, or --preset with a name")
    from pipeline.config import load_analysis, load_preset

    # Read before what needs torch is imported, which takes seconds: the file may be refused.
    analysis = load_analysis(config) if config else load_preset(str(preset))
    require("torch", *(() if serial or dry_run else ("prefect", "ray")))
    if not dry_run:
        say("analyse: starting…", err=True)  # what follows may import for seconds
    from pipeline.analysis.runs import analyses_of

    analyses = analyses_of(analysis)
    if dry_run:
        _print_estimates(analyses, serial, as_json)
        return
    done = _analyze_all(analyses, serial)
    as_dicts = [{**asdict(summary), "report": str(page)} for summary, page in done]
    if len(analyses) == 1:
        say_json(as_dicts[0]) if as_json else _print_summary(*done[0])
    elif as_json:
        say_json(as_dicts)
    else:
        for summary, page in done:
            _print_summary(summary, page)
    if len(analyses) > 1 and "modular_addition" in analyses[0].measures and not as_json:
        from flows.cli.stores import sweep

        sweep(analyses[0].store.rpartition("/")[0])
    _exit_on_failure(*(summary for summary, _ in done))


def _analyze_all(analyses: "list[Analysis]", serial: bool) -> "list[tuple[Summary, Path]]":
    """Compute all, or refuse all; say on stderr what is being done."""
    from flows.collector import uncollected_imports
    from flows.console import show_progress
    from flows.early_start import started_early

    with show_progress("analyse", "checkpoints") as progress:
        started = nullcontext() if serial else started_early(analyses[0].workers, progress.tell)
        # Ray prints messages about lost workers to stdout; these errors are part of the summary.
        with redirect_stdout(io.StringIO()), started:
            progress.tell("loading torch")
            with uncollected_imports():
                from pipeline.analysis.preflight import refuse_at_once
            refuse_at_once(analyses, _faults_of(serial))
            analyze_one = _analyze_serially if serial else _analyze_by_flow
            return [analyze_one(one, progress) for one in analyses]


def _print_estimates(analyses: "list[Analysis]", serial: bool, as_json: bool) -> None:
    from pipeline.analysis.estimate import dry_run
    from pipeline.analysis.grouped_reasons import grouped_by_reason

    estimates = [dry_run(analysis, _faults_of(serial)) for analysis in analyses]
    if as_json:
        as_dicts = [asdict(estimate) for estimate in estimates]
        say_json(as_dicts[0] if len(as_dicts) == 1 else as_dicts)
    else:
        for analysis, estimate in zip(analyses, estimates, strict=True):
            _print_estimate(analysis, estimate)
    failed = [reason for estimate in estimates for reason in grouped_by_reason(estimate.failed)]
    faults = [fault.message for estimate in estimates for fault in estimate.faults]
    for reason in (*failed, *dict.fromkeys(faults)):
        say(reason, err=True)
    if failed or faults:
        raise typer.Exit(2 if faults else 1)


def _print_estimate(analysis: "Analysis", estimate: "Estimate") -> None:
    rows = [list(row) for row in estimate.rows()]
    if rows:
        print_table(["takes", analysis.store], rows)
    for note in estimate.notes:
        say(f"note: {note}")
    for group, why in estimate.undefined.items():
        say(f"  ! {group}: {why}")


def _faults_of(serial: bool) -> "FaultsOf":
    """Return the check of the machine that computes: this process's, or that of the workers."""
    from flows.preflight import run_faults
    from pipeline.analysis.machine import machine_faults

    return machine_faults if serial else run_faults


def _analyze_serially(analysis: "Analysis", progress: "Shown") -> "tuple[Summary, Path]":
    from flows.reporting import write_store_report
    from pipeline.analysis.run import STAGES, analyze
    from pipeline.trackers import send_results

    summary = analyze(analysis, progress, progress.tell)
    if analysis.log_to.places():
        progress.tell(STAGES["trackers"])
        send_results(analysis, summary)
    progress.tell(STAGES["report"])
    return summary, write_store_report(analysis.store)


def _analyze_by_flow(analysis: "Analysis", progress: "Shown") -> "tuple[Summary, Path]":
    from flows.collector import uncollected_imports

    with uncollected_imports():
        from flows.analyze import run_analysis
        from flows.reporting import report_page

    return run_analysis(analysis, progress, progress.tell), report_page(analysis.store)


def _print_summary(summary: "Summary", page: Path) -> None:
    from pipeline.findings import findings

    say(summary.sentence())
    print_left_out(summary.left_out)
    for exception in summary.exceptions():
        say(f"  {exception}")
    for note in summary.notes:
        say(f"note: {note}")
    if summary.drawn_from:
        say(summary.drawn())
    for name, said in summary.inputs.items():
        say(f"Input {name}: {said}")
    if summary.computed:
        say(summary.loading())
    for group, why in summary.undefined.items():
        say(f"  ! {group}: {why}")
    for sentence in findings(summary.store):
        say(f"  - {sentence}")
    say(f"Report: {page}")


def _exit_on_failure(*summaries: "Summary") -> None:
    """Print failures on stderr; exit with code 1 if there are any, or non-finite numbers."""
    for summary in summaries:
        for reason in (*summary.failures(), *summary.not_sent.values()):
            say(reason, err=True)
        if not summary.worked:
            say(summary.sentence(), err=True)
    if not all(summary.worked for summary in summaries):
        raise typer.Exit(1)
