"""Commands for operation: `ontogeny ui`, `ontogeny watch` and `ontogeny automations`."""

from typing import Annotated

import typer

from flows.cli.app import Json, app
from flows.cli.output import say, say_json, say_lines
from pipeline.errors import InputError

_LONGEST = 366 * 24 * 3600  # between two analyses of `watch`


@app.command()
def ui(
    port: Annotated[
        int,
        typer.Option(
            help="Port on the loopback interface; reports use the next one.", min=1, max=65534
        ),
    ] = 4200,
) -> None:
    """Run a Prefect server whose UI shows past and live runs; this user's later runs report to it.

    The printed link holds the secret that the server asks for. Ctrl-C ends the server; its records
    are kept for the next time.
    """
    from flows import environment
    from flows.prefect_server.ui import serve_ui

    environment.require()
    serve_ui(port, say_lines)


@app.command()
def watch(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of a preset.")],
    every: Annotated[float, typer.Option(help="Seconds between two analyses.", min=1)] = 300,
) -> None:
    """Analyse a growing run on a schedule: each time, only new checkpoints are computed.

    Needs a persistent server, such as `ontogeny ui`. Ctrl-C ends it.
    """
    from flows import cleanup
    from pipeline.config import load_analysis

    if every > _LONGEST:
        raise InputError(f"--every {every:g}: expected seconds, at most {_LONGEST:,}")
    analysis = load_analysis(config)
    say(f"{analysis.checkpoints}: analysed every {every:g} s; Ctrl-C ends this")
    from flows.watching import watch_run  # imports Prefect, which takes seconds

    with cleanup.covered():
        watch_run(analysis, every)


@app.command()
def automations(
    notify: Annotated[
        str | None,
        typer.Option(metavar="TYPE/NAME", help="Block that messages are sent to: webhook/team."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Create or update the automations on the Prefect server: failed, onset, lost, skipped.

    The first two send messages, and need a block of Prefect. Others mark runs that were killed, and
    scheduled runs that were skipped. Run it again after a change: none is created twice.
    """
    from flows.automations import deploy_automations

    done = deploy_automations(notify)
    if as_json:
        say_json(done)
    else:
        for name, what in done.items():
            say(f"{name}: {what}")
