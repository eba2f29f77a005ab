"""Commands about runs: `ontogeny demo`, `train`, `checkpoints`, `audit` and `analyze`."""

import io
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.app import Json, app
from flows.cli.output import print_table, say, say_json
from pipeline.errors import InputError
from pipeline.extras import require

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flows.console import Shown
    from pipeline.analysis.estimate import Estimate
    from pipeline.analysis.preflight import FaultsOf
    from pipeline.analysis.summary import Summary
    from pipeline.checkpoints import LeftOut
    from pipeline.config import Analysis, RunLayout

Model = Annotated[
    list[str],
    typer.Option(
        metavar="NAME=VALUE", help="A field that .pth files lack, as in `model` of an analysis."
    ),
]
TokensPerStep = Annotated[
    int | None, typer.Option(help="Tokens per step, if the run does not declare it.", min=1)
]


Names = Annotated[
    str | None,
    typer.Option(
        metavar="PATTERN",
        help="Names of the checkpoints, as in my-run-{step}; also {epoch}, {tokens}.",
    ),
]
Config = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="A config.json for checkpoints that have none."),
]
Base = Annotated[
    str | None,
    typer.Option(metavar="PLACE", help="The base model of LoRA adapters: a folder or address."),
]
FollowLinks = Annotated[
    bool, typer.Option("--follow-links", help="Read what links out of the run lead to.")
]


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
def train(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of a preset.")],
    output: Annotated[str | None, typer.Option(help="Folder of the run.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Number of steps, instead of that of the file.", min=1)
    ] = None,
) -> None:
    """Train a model organism and save its checkpoints; an interrupted run is continued."""
    from pipeline.training.sweep import load_trainings

    trainings = load_trainings(config)
    if output and len(trainings) > 1:
        raise InputError(f"{config}: is a sweep, each run has its own folder: leave out --output")
    require("torch")
    say("train: starting…", err=True)  # torch is imported next, which takes seconds
    from flows.console import loss_progress, show_progress
    from pipeline.training import train as train_organism

    given = {"output": output} if output else {}
    given |= {"steps": steps} if steps else {}
    for training in trainings:
        chosen = training.model_copy(update=given)
        with show_progress(f"train {chosen.name}", "steps") as progress:
            folder = train_organism(chosen, loss_progress(progress))
        say(str(folder))


@app.command()
def checkpoints(
    uri: str,
    tokens_per_step: TokensPerStep = None,
    names: Names = None,
    config: Config = None,
    base: Base = None,
    follow_links: FollowLinks = False,
    model: Model = [],  # noqa: B006 (typer copies it)
    as_json: Json = False,
) -> None:
    """List the checkpoints of a run by step, and what is left out of the list."""
    from pipeline.analysis.listing import list_with_tokens

    given, layout = parse_model(model), run_layout(names, config, follow_links, base)
    print_notes(uri, given, layout)
    listing = list_with_tokens(uri, tokens_per_step, given, layout)
    for note in listing.notes:
        say(f"note: {note}", err=True)
    if as_json:
        say_json({"uri": uri, **listing.as_json()})
        return
    print_table(
        ["step", "tokens_seen", "uri"],
        [[str(c.step), str(c.tokens_seen or ""), c.uri] for c in listing.checkpoints],
    )
    print_left_out(listing.left_out)


def parse_model(model: list[str]) -> dict[str, Any]:
    """Parse the options `--model NAME=VALUE`, whose values are YAML."""
    from pipeline.config import parse_yaml, saved_model

    pairs = [one.partition("=") for one in model]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        raise InputError(f"--model {wrong[0]}: expected NAME=VALUE, as in act_fn=relu")
    return saved_model(
        {name: parse_yaml(value, f"--model {name}") for name, _, value in pairs}, "--model"
    )


def run_layout(
    names: str | None, config: str | None, follow_links: bool, base: str | None
) -> "RunLayout":
    """Return the options of a run's layout, with its paths made absolute."""
    from pipeline.config import RunLayout, validated, with_absolute_paths

    # Only what was given, so that a fault is of an option that the user wrote.
    given = {
        "names": names,
        "config": config,
        "base": base,
        "follow_links": follow_links or None,
    }
    options = {key: value for key, value in given.items() if value is not None}
    return with_absolute_paths(validated(RunLayout, options, "options"))


def print_notes(uri: str, model: dict[str, Any], layout: "RunLayout") -> None:
    """Print on stderr what the conversion of a run of `.pth` files leaves out."""
    from pipeline.checkpoints.converted import converted_uri
    from pipeline.checkpoints.foreign import conversion_notes

    if layout.names is not None and not model:  # then nothing is converted
        return
    for note in conversion_notes(converted_uri(uri, model, layout)):
        say(f"note: {note}", err=True)


@app.command()
def audit(
    uri: str,
    deep: Annotated[bool, typer.Option("--deep", help="Also read all weights.")] = False,
    names: Names = None,
    config: Config = None,
    base: Base = None,
    follow_links: FollowLinks = False,
    model: Model = [],  # noqa: B006 (typer copies it)
    as_json: Json = False,
) -> None:
    """Find checkpoints of a run that are damaged or mislabelled; exit code 1 if there are any."""
    from flows.console import show_progress
    from pipeline.auditing import audit as run_audit

    given, layout = parse_model(model), run_layout(names, config, follow_links, base)
    print_notes(uri, given, layout)
    with show_progress("audit") as progress:
        verdict = run_audit(uri, deep, progress, given, layout)
    for note in verdict.notes:
        say(f"note: {note}", err=True)
    if as_json:
        say_json(verdict.as_json())
    else:
        if verdict.faults:
            rows = [[str(fault.step), fault.kind, fault.detail] for fault in verdict.faults]
            print_table(["step", "kind", "detail"], rows)
        say(verdict.sentence())
        print_left_out(verdict.left_out)
    if verdict.faults:
        raise typer.Exit(1)


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


def print_left_out(left_out: "Iterable[LeftOut]") -> None:
    """Print a line for each kind of thing left out, on stderr: the result is on stdout."""
    from pipeline.checkpoints.left_out import in_lines

    for line in in_lines(left_out):
        say(f"left out, {line}", err=True)


def _exit_on_failure(*summaries: "Summary") -> None:
    """Print failures on stderr; exit with code 1 if there are any, or non-finite numbers."""
    for summary in summaries:
        for reason in (*summary.failures(), *summary.not_sent.values()):
            say(reason, err=True)
        if not summary.worked:
            say(summary.sentence(), err=True)
    if not all(summary.worked for summary in summaries):
        raise typer.Exit(1)
