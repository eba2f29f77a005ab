"""Commands for operating: a server with its UI, and a growing run that is watched."""

from typing import Annotated

import typer

from flows.cli.app import app


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="On this machine alone; reports take the next.")] = 4200,
) -> None:
    """Run a Prefect server whose UI shows past and live runs; this user's later runs report to it.

    Ends with Ctrl-C. What it has recorded is kept, and shown by the next.
    """
    from flows.server import serve_ui

    typer.echo(
        f"http://127.0.0.1:{port} shows the runs, http://127.0.0.1:{port + 1} their reports; "
        "Ctrl-C ends the server, not the runs"
    )
    raise typer.Exit(serve_ui(port))


@app.command()
def watch(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of a preset.")],
    every: Annotated[float, typer.Option(help="Seconds from one look to the next.")] = 300,
) -> None:
    """Analyse a run that is still growing: every so often, what has come is computed.

    Needs a server that stands, as `ontogeny ui` is. Ends with Ctrl-C.
    """
    from flows.watching import watch_run
    from pipeline.config import load_analysis

    analysis = load_analysis(config)
    typer.echo(f"{analysis.checkpoints}: looked at every {every:g} s; Ctrl-C ends the watch")
    watch_run(analysis, every)
