"""The typer app, how errors become exit codes, and options that commands share.

Exit codes: 0 if everything succeeded, 1 if some checkpoints could not be analysed, a store is
damaged or a storage does not answer, 2 if the request itself is invalid, 130 after Ctrl-C, 143
after SIGTERM.
"""

import os
import signal
from typing import Annotated, Any

import typer

from flows.cli.output import Arguments, say, say_error
from flows.server import use_persistent_server
from pipeline.errors import InputError

# The console shows the result only; Prefect's logs are in its UI.
_QUIET = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


class Terminated(KeyboardInterrupt):
    """SIGTERM was received, as when a scheduler reclaims the machine."""


def _terminate(*_: object) -> None:
    raise Terminated


class Commands(Arguments):
    """A group of commands that prints errors of the user as one sentence and sets the exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; see the module for the exit codes of its errors."""
        # As an exception, SIGTERM runs the `finally` blocks that end workers and release the store.
        before = signal.signal(signal.SIGTERM, _terminate)
        try:
            return super().invoke(ctx)
        except InputError as error:
            say_error(error)
            raise typer.Exit(2) from None
        except BrokenPipeError:
            raise  # a reader such as `head` has closed the pipe: click exits without a message
        except OSError as error:
            say_error(error)
            raise typer.Exit(1) from None
        except Terminated:
            say("terminated: computed results are kept, run it again to continue", err=True)
            raise typer.Exit(143) from None
        except KeyboardInterrupt:
            say("interrupted: computed results are kept, run it again to continue", err=True)
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

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def _main() -> None:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    use_persistent_server()
