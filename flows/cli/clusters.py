"""Commands about where an analysis runs: submit it to a cluster, see whether all is in order."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.app import Commands, Json, app
from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.config import Analysis

Config = Annotated[str, typer.Argument(help="A YAML file, or the name of a preset.")]
Nodes = Annotated[int, typer.Option(min=1, help="Spread the workers over so many nodes.")]
Memory = Annotated[int, typer.Option(min=1, help="GiB on each node.")]
Send = Annotated[bool, typer.Option("--send", help="Submit it, in place of printing it.")]

submit = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="Print what runs an analysis on a cluster, or --send it there.",
)
app.add_typer(submit, name="submit")


@submit.command()
def slurm(
    config: Config,
    nodes: Nodes = 1,
    time: Annotated[str, typer.Option(help="The job's time limit.")] = "24:00:00",
    memory: Memory = 16,
    grace: Annotated[
        int, typer.Option(min=0, help="Seconds before the limit at which it stops and requeues.")
    ] = 120,
    option: Annotated[
        list[str] | None, typer.Option(help="One more of sbatch, as in --option=--partition=gpu.")
    ] = None,
    send: Send = False,
) -> None:
    """A batch script for Slurm, sent by `sbatch`."""
    from flows.submit import for_slurm

    text = for_slurm(
        _analysis(config), nodes, duration=time, memory=memory, grace=grace, options=option or ()
    )
    _print_or_send("slurm", text, send)


@submit.command()
def kuberay(
    config: Config,
    image: Annotated[str, typer.Option(help="A container image, see infra/docker.")],
    nodes: Nodes = 1,
    memory: Memory = 16,
    standing: Annotated[
        bool, typer.Option(help="A Ray cluster that stays, without the analysis.")
    ] = False,
    namespace: Annotated[str | None, typer.Option()] = None,
    secret: Annotated[
        str, typer.Option(help="Its keys become the pods' environment: AWS_ACCESS_KEY_ID, …")
    ] = "ontogeny-s3",
    volume: Annotated[
        list[str] | None, typer.Option(metavar="CLAIM:PATH", help="Mount a claim on all pods.")
    ] = None,
    send: Send = False,
) -> None:
    """Manifests for Kubernetes with the KubeRay operator, sent by `kubectl create`."""
    from flows.submit import for_kuberay

    text = for_kuberay(
        _analysis(config),
        image,
        nodes,
        standing=standing,
        memory=memory,
        namespace=namespace,
        secret=secret,
        volumes=[_claim_and_path(text) for text in volume or []],
    )
    _print_or_send("kuberay", text, send)


@submit.command()
def ray(
    config: Config,
    address: Annotated[
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="The URL of its dashboard.")
    ] = "http://127.0.0.1:8265",
    send: Send = False,
) -> None:
    """A script for a Ray cluster that stands: its flow runs there, by `ray job submit`."""
    from flows.submit import for_ray

    _print_or_send("ray", for_ray(_analysis(config), address), send)


@app.command()
def doctor(
    config: Annotated[
        str | None, typer.Argument(help="Also look at what this analysis needs.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Look at all that a run depends on; each line is good, or says what to do."""
    from flows.doctor import examine

    found = examine(_analysis(config) if config else None)
    if as_json:
        typer.echo(json.dumps([vars(finding) for finding in found], indent=1))
    else:
        for finding in found:
            typer.echo(f"{'good' if finding.good else 'BAD '}  {finding.what}: {finding.said}")
    if not all(finding.good for finding in found):
        raise typer.Exit(1)


def _analysis(config: str) -> "Analysis":
    from pipeline.config import load_analysis, paths_from

    return paths_from(load_analysis(config), Path.cwd())


def _claim_and_path(text: str) -> tuple[str, str]:
    claim, colon, path = text.partition(":")
    if not colon or not path.startswith("/"):
        raise InputError(f"--volume {text}: expected CLAIM:PATH, as in --volume runs:/runs")
    return claim, path


def _print_or_send(target: str, text: str, send: bool) -> None:
    from flows.submit import send as send_to

    if not send:
        typer.echo(text, nl=False)
    elif code := send_to(target, text):
        raise typer.Exit(code)
