"""The typer app, how errors become exit codes, and options that commands share.

Exit codes: 0 if everything succeeded, 1 if some checkpoints could not be analysed, a store is
damaged or a storage does not answer, 2 if the request itself is invalid, 129 after SIGHUP, 130
after Ctrl-C, 143 after SIGTERM.
"""

import io
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import Annotated, Any

import typer

from flows import environment
from flows.cli.output import Arguments, say, say_error
from flows.collector import collect_nothing_at_exit
from flows.server import use_persistent_server
from pipeline.errors import InputError
from pipeline.extras import missing_package

# The console shows the result only; Prefect's logs are in its UI.
_QUIET = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}

_ENDINGS = {
    signal.SIGHUP: "hung up",  # the terminal was closed, or the connection to it lost
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "terminated",  # as when a scheduler reclaims the machine
}
_SECONDS_TO_END = 10.0  # what a run has started is killed when it has ended


class Stopped(KeyboardInterrupt):
    """One of the signals of `_ENDINGS` was received."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.code = 128 + number
        self._how = _ENDINGS[signal.Signals(number)]
        self._told = False

    def tell(self) -> None:
        """Print once what happened and what to do."""
        if not self._told:
            self._told = True
            with suppress(OSError):  # the terminal may be gone
                sentence = f"{self._how}: computed results are kept, run it again to continue"
                say(sentence, err=True)


class _Signals:
    """Raises Stopped at the first signal in a block, whose `finally` clauses end what it started.

    stopped: what was raised. It may not arrive, as Python ignores what is raised in a destructor,
    or another exception may take its place.
    """

    def __init__(self) -> None:
        self.stopped: Stopped | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "_Signals":
        for number in _ENDINGS:
            handler = signal.getsignal(number)
            # Ignored by `nohup`, and SIGINT in the background of a script; None: not from Python.
            if handler not in (signal.SIG_IGN, None):
                self._handlers[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            # After the first signal, others are ignored until the process has ended.
            signal.signal(number, handler if self.stopped is None else signal.SIG_IGN)

    def _stop(self, number: int, _: object) -> None:
        # A terminal and the programs between it and this one may each send the signal: the second
        # must not interrupt the blocks that clean up after the first. It is not ignored by SIG_IGN
        # here: where it has arrived already, Python would print an error.
        if self.stopped is not None:
            return
        self.stopped = Stopped(number)
        deadline = threading.Timer(_SECONDS_TO_END, self._give_up)
        deadline.daemon = True
        deadline.start()
        raise self.stopped

    def _give_up(self) -> None:
        """End the process at once: its end waits for something that does not come."""
        if self.stopped is not None:
            self.stopped.tell()
            os._exit(self.stopped.code)


# Commands in the order in which they are used, for --help.
ORDER = (
    *("demo", "train", "init", "checkpoints", "audit", "doctor", "analyze", "watch"),
    *("query", "transitions", "losses", "report", "sweep", "measures", "experiment", "schema"),
    *("presets", "store", "ui", "submit", "pool", "automations"),
)


class Commands(Arguments):
    """A group of commands that prints errors of the user as one sentence and sets the exit code."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands in the order of `ORDER`."""
        return sorted(self.commands, key=ORDER.index)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; see the module for the exit codes of its errors."""
        with _Signals() as signals:
            try:
                return super().invoke(ctx)
            except BaseException as error:
                if signals.stopped is not None or isinstance(error, KeyboardInterrupt):
                    stopped = signals.stopped or Stopped()
                    stopped.tell()
                    raise typer.Exit(stopped.code) from None
                if (told := _without_traceback(error)) is None:
                    raise
                say_error(told)
                raise typer.Exit(2 if isinstance(told, InputError) else 1) from None


def _without_traceback(error: BaseException) -> Exception | None:
    """Return an error that is told in a sentence; None for one of the program, and of a pipe."""
    if isinstance(error, BrokenPipeError):
        return None  # a reader such as `head` has closed the pipe: click exits without a message
    if isinstance(error, UnicodeEncodeError):
        return InputError(
            f"{error.object!a}: has characters that cannot be written in this locale's encoding, "
            f"{error.encoding}: set LC_ALL=C.UTF-8"
        )
    if isinstance(error, ImportError) and (sentence := missing_package(error)):
        return InputError(sentence)
    return error if isinstance(error, InputError | OSError) else None


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="When did each mechanism inside a language model form? Read it from its checkpoints.",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DaskAddress = Annotated[
    str | None,
    typer.Option(help="Compute on the Dask cluster of this scheduler, such as tcp://host:8786."),
]


def _print_version(asked: bool) -> None:
    if asked:
        from pipeline import __version__

        say(f"ontogeny {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version, and end."
        ),
    ] = False,
) -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Names of files may contain what the encoding of the terminal does not.
            stream.reconfigure(errors="backslashreplace")
    if fault := environment.working_folder_fault():
        raise InputError(fault)
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    use_persistent_server()
    collect_nothing_at_exit()
