"""Output of the commands: every line passes `say` or `print_table`, which show no raw character.

Names of files, tensors and tokens may hold escape sequences, markup of rich, or secrets.
"""

import json
from collections.abc import Sequence
from typing import Any

import typer
from click import UsageError
from typer.core import TyperGroup

from pipeline.addresses import require_no_secret
from pipeline.errors import InputError
from pipeline.printable import printable
from pipeline.redaction import redacted


class Arguments(TyperGroup):
    """A group of commands that takes no secret as an argument, and repeats none in its errors."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the arguments name. Raises InputError for one with a secret."""
        for argument in args:
            require_no_secret(argument, "the command line")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; a message about its arguments shows no raw character of them."""
        try:
            return super().invoke(ctx)
        except UsageError as error:
            raise UsageError(printable(error.format_message()), error.ctx) from None


def say(line: str, err: bool = False) -> None:
    """Print one line; a line break within it is shown as `\\n`. err: on stderr."""
    typer.echo(printable(line), err=err)


def say_lines(text: str, err: bool = False) -> None:
    """Print each line of a text."""
    for line in text.split("\n"):
        say(line, err)


def say_json(value: Any, indent: int | None = 1) -> None:
    """Print a value as JSON, in which all but ASCII is escaped."""
    typer.echo(redacted(json.dumps(value, indent=indent)))


def say_error(error: Exception) -> None:
    """Print the lines of an error on stderr."""
    lines = error.lines if isinstance(error, InputError) else str(error).splitlines()
    for line in lines:
        say(line, err=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: no cell is cut off. A file or a pipe gets one line for each row."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    # Text, since rich reads markup such as "[red]" in a string.
    table = Table(*(Column(Text(printable(name)), overflow="fold") for name in columns), box=None)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console(soft_wrap=True)
    if not console.is_terminal:
        console.width = max(console.measure(table, options=console.options.update(max_width=_ANY))
                            .maximum, 1)  # fmt: skip
    console.print(table)


_ANY = 10_000  # characters: a file or a pipe has rows of any length
