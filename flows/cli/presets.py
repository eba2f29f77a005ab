"""`ontogeny presets`: list the packaged analyses, as text, as JSON, or as the table of the docs."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.app import Json, app
from flows.cli.output import say_json, say_lines
from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.config.suites import Suite

_HEAD = (
    "| suite | presets | checkpoints | tokens a step | known faults | sources |\n"
    "|---|---|---|---|---|---|"
)


@app.command()
def presets(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", help="Names of presets.")
    ] = None,
    as_json: Json = False,
    format: Annotated[str, typer.Option(help="text or markdown")] = "text",
) -> None:
    """List presets: of which suite each is, with its schedule, known faults and their sources."""
    from pipeline.config.loading import own_presets
    from pipeline.config.suites import suites

    chosen = _chosen(suites(), names)
    if as_json:
        say_json([_as_json(suite, name) for suite, name in chosen])
    elif format == "markdown":
        say_lines(table([suite for suite in suites() if any(one is suite for one, _ in chosen)]))
    elif format != "text":
        raise InputError(f"--format {format}: expected text or markdown")
    elif names:
        say_lines("\n\n".join("\n".join(_lines(suite, name)) for suite, name in chosen))
    else:
        say_lines("\n".join([*_overview(suites()), "", f"own models: {', '.join(own_presets())}"]))


def table(suites: Sequence["Suite"]) -> str:
    """Return the table of suites in the docs."""
    return "\n".join([_HEAD, *map(_row, suites)])


def _chosen(every: Sequence["Suite"], names: list[str] | None) -> list[tuple["Suite", str]]:
    from pipeline.config.loading import unknown_preset
    from pipeline.config.suites import suite_of

    if not names:
        return [(suite, name) for suite in every for name in suite.members]
    if unknown := [name for name in names if name not in suite_of()]:
        raise unknown_preset(unknown[0], "there is no such preset of a public suite")
    return [(suite_of()[name], name) for name in names]


def _as_json(suite: "Suite", name: str) -> dict[str, Any]:
    return {
        "preset": name,
        "suite": suite.suite,
        "about": suite.about,
        "checkpoints": None if suite.refused else suite.address(name),
        "schedule": suite.schedule,
        "tokens_per_step": suite.tokens_of(name),
        "faults": [{"what": one.what, "source": one.source} for one in suite.faults_of(name)],
        "sources": list(suite.sources),
        "refused": suite.refused,
    }


def _overview(every: Sequence["Suite"]) -> Iterator[str]:
    for suite in every:
        yield f"{suite.suite}: {', '.join(_with_ranges(list(suite.members)))}"


def _lines(suite: "Suite", name: str) -> Iterator[str]:
    yield f"{name} ({suite.suite})"
    yield f"  {suite.about}"
    if suite.refused:
        yield f"  refused: {suite.refused}"
    else:
        yield f"  checkpoints: {suite.address(name)}"
        yield f"  schedule: {suite.schedule}"
        yield f"  tokens per step: {_tokens(suite.tokens_of(name))}"
    for fault in suite.faults_of(name):
        yield f"  known fault: {fault.what} ({fault.source})"
    for source in suite.sources:
        yield f"  source: {source}"


def _row(suite: "Suite") -> str:
    each = {name: suite.tokens_of(name) for name in suite.members}
    tokens = dict.fromkeys(each.values())
    if len(tokens) > 1:
        known = [f"`{name}` {_tokens(count)}" for name, count in each.items() if count]
        counted = ", ".join([*known, *[f"others {_tokens(None)}"] * (None in tokens)])
    else:
        counted = "" if suite.refused else _tokens(next(iter(tokens)))
    members = ", ".join(f"`{name}`" for name in _with_ranges(list(suite.members)))
    schedule = f"not analysed: {suite.refused}" if suite.refused else suite.schedule
    faults = "; ".join(f"[{_whose(one.members)}{one.what}]({one.source})" for one in suite.faults)
    sources = ", ".join(_link(number, one) for number, one in enumerate(suite.sources, start=1))
    return f"| {suite.suite} | {members} | {schedule} | {counted} | {faults} | {sources} |"


def _with_ranges(names: Sequence[str]) -> list[str]:
    """Return names with those that differ in a last digit alone as one: `seed1` to `seed9`."""
    shown: list[str] = []
    for name in names:
        start = name.rstrip("0123456789")
        numbers = [other[len(start) :] for other in names if other.startswith(start)]
        run = [number for number in numbers if number.isdecimal() and len(number) == 1]
        if name[-1:].isdecimal() and len(run) > 2:
            name = f"{start}{{{run[0]}..{run[-1]}}}"
        if name not in shown:
            shown.append(name)
    return shown


def _whose(members: Sequence[str]) -> str:
    return f"{', '.join(members)}: " if members else ""


def _tokens(count: int | None) -> str:
    return "in the names, or unknown" if count is None else f"{count:,}"


def _link(number: int, source: str) -> str:
    return f"[{number}]({source})" if source.startswith("https://") else source
