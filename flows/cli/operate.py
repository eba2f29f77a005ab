"""Commands for operation: `ontogeny ui` and `ontogeny watch`."""

from typing import Annotated

import typer

from flows.cli.app import app
from flows.cli.output import say, say_lines


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
    every: Annotated[float, typer.Option(help="Seconds between two analyses.")] = 300,
) -> None:
    """Analyse a growing run on a schedule: each time, only new checkpoints are computed.

    Needs a persistent server, such as `ontogeny ui`. Ctrl-C ends it.
    """
    from flows import cleanup
    from pipeline.config import load_analysis

    analysis = load_analysis(config)
    say(f"{analysis.checkpoints}: analysed every {every:g} s; Ctrl-C ends this")
    from flows.watching import watch_run  # imports Prefect, which takes seconds

    with cleanup.covered():
        watch_run(analysis, every)
