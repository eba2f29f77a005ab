"""The command `ontogeny init`, which writes an analysis of a run."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.app import Json, app
from flows.cli.output import say, say_json
from flows.cli.run_options import (
    Base,
    Config,
    FollowLinks,
    Model,
    Names,
    TokensPerStep,
    parse_model,
    print_conversion_notes,
    print_left_out,
    run_layout,
)
from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.analysis.draft.write import Drafted


@app.command()
def init(
    uri: Annotated[str, typer.Argument(help="A folder, or an address s3://… or hf://….")],
    output: Annotated[
        Path | None, typer.Option(help="The file to write; by default, named as the run.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="Place of the results; by default, beside the file.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="A text file or a data set to compute losses on.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Folder or Hub name, if the run has no tokenizer.")
    ] = None,
    column: Annotated[
        str | None, typer.Option(help='The data set\'s column of texts, if not "text".')
    ] = None,
    tokens_per_step: TokensPerStep = None,
    names: Names = None,
    config: Config = None,
    base: Base = None,
    follow_links: FollowLinks = False,
    model: Model = [],  # noqa: B006 (typer copies it)
    as_json: Json = False,
) -> None:
    """Look at the checkpoints of a run, and write a commented YAML file that analyses them.

    Reads configs and other small files, and no weights. An existing file is never overwritten.
    """
    from pipeline.analysis.draft.place import file_for, new_file
    from pipeline.checkpoints import list_run

    if tokenizer and not text:
        raise InputError("--tokenizer: is for a text: give --text too")
    if column and not text:
        raise InputError("--column: is for a data set: give --text too")
    file, given = new_file(output or file_for(uri)), parse_model(model)
    layout = run_layout(names, config, follow_links, base)
    print_conversion_notes(uri, given, layout)
    # Refused before torch is imported, which takes seconds.
    list_run(uri, tokens_per_step, given, layout)
    from pipeline.analysis.draft.write import draft_analysis

    drafted = draft_analysis(
        uri, file, store, text, tokenizer, tokens_per_step, given, layout=layout, column=column
    )
    if as_json:
        say_json(asdict(drafted))
    else:
        _print(drafted)


def _print(drafted: "Drafted") -> None:
    from pipeline.analysis.grouped_reasons import grouped_by_reason

    for sentence in drafted.seen:
        say(sentence)
    masked = {
        step: f"step {step:,} is left out by the audit: {why}"
        for step, why in drafted.masked.items()
    }
    for line in grouped_by_reason(masked):
        say(line)
    for line in grouped_by_reason(drafted.failed):
        say(f"cannot be computed: {line}")
    print_left_out(drafted.not_listed)
    for note in drafted.notes:
        say(f"note: {note}")
    for guess in drafted.guessed:
        say(f"guessed: {guess}")
    for name, why in drafted.left_out.items():
        say(f"left out, {name}: {why}")
    say(f"measures: {', '.join(drafted.analysis['measures'])}")
    say(f"Written: {drafted.file}")
    say(f"Next: ontogeny analyze {drafted.file} --dry-run")
