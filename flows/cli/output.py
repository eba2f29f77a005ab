"""Output of the commands: every line passes `say` or `print_table`, which show no raw character.

Names of files, tensors and tokens may hold escape sequences, markup of rich, or secrets.
"""

import json
from typing import Any

import typer
from click import UsageError
from typer.core import TyperGroup

from pipeline.addresses import require_no_secret
from pipeline.errors import InputError
from pipeline.printable import print_table, printable
from pipeline.redaction import redacted

__all__ = ["Arguments", "print_table", "say", "say_error", "say_json", "say_lines"]


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
