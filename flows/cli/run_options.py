"""Options by which commands find and read the checkpoints of a run, and what they say of it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.output import say
from pipeline.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipeline.checkpoints import LeftOut
    from pipeline.config import RunLayout

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


def print_conversion_notes(uri: str, model: dict[str, Any], layout: "RunLayout") -> None:
    """Print on stderr what the conversion of a run of `.pth` files leaves out."""
    from pipeline.checkpoints.converted import converted_uri
    from pipeline.checkpoints.foreign import conversion_notes

    if layout.names is not None and not model:  # then nothing is converted
        return
    for note in conversion_notes(converted_uri(uri, model, layout)):
        say(f"note: {note}", err=True)


def print_left_out(left_out: "Iterable[LeftOut]") -> None:
    """Print a line for each kind of thing left out, on stderr: the result is on stdout."""
    from pipeline.checkpoints.left_out import in_lines

    for line in in_lines(left_out):
        say(f"left out, {line}", err=True)
