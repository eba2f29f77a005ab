"""The app that all commands belong to, and what they have in common.

Exit codes: 0 only when all of it worked, 1 where some checkpoints could not be analysed, where a
store is damaged or where a storage does not answer, 2 where what was asked for cannot be done as it
stands, 130 after an interruption, 143 after SIGTERM.
"""

import os
import signal
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from flows.server import use_standing_server
from pipeline.errors import InputError

# What these have to say in passing goes to the run's log (see the Prefect UI), not to the user.
_QUIET = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


class Terminated(KeyboardInterrupt):
    """SIGTERM: whoever lent the machine wants it back, in a moment."""


def _terminate(*_: object) -> None:
    raise Terminated


class Commands(TyperGroup):
    """Turns what the user can put right into one sentence and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; see the module for what becomes of its errors."""
        before = signal.signal(signal.SIGTERM, _terminate)
        try:
            return super().invoke(ctx)
        except InputError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(2) from None
        except BrokenPipeError:
            raise  # the reader has seen enough: click ends quietly
        except OSError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(1) from None
        except Terminated:
            typer.echo("terminated: what was computed is kept, run it again to go on", err=True)
            raise typer.Exit(143) from None
        except KeyboardInterrupt:
            typer.echo("interrupted: what was computed is kept, run it again to go on", err=True)
            raise typer.Exit(130) from None
        finally:
            signal.signal(signal.SIGTERM, before)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="When did each mechanism inside a language model form? Read it from its checkpoints.",
)

Json = Annotated[bool, typer.Option("--json", help="Answer in JSON, for a program.")]


@app.callback()
def _main() -> None:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    use_standing_server()


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """A table for a person, with its first row as heading."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*row)
    Console(soft_wrap=True).print(table)
