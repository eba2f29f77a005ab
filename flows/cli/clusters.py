"""Commands about clusters and set-up: `ontogeny submit`, `ontogeny pool`, `ontogeny doctor`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.app import Commands, Json, app
from flows.cli.output import say, say_json, say_lines
from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.config import Analysis

Config = Annotated[str, typer.Argument(help="A YAML file, or the name of a preset.")]
Nodes = Annotated[int, typer.Option(min=1, help="Number of nodes to spread the workers over.")]
Memory = Annotated[int, typer.Option(min=1, help="GiB on each node.")]
Send = Annotated[bool, typer.Option("--send", help="Submit it instead of printing it.")]

submit = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="Print a script or manifest that runs an analysis on a cluster, or --send it.",
)
app.add_typer(submit, name="submit")


@submit.command()
def slurm(
    config: Config,
    nodes: Nodes = 1,
    time: Annotated[str, typer.Option(help="The job's time limit.")] = "24:00:00",
    memory: Memory = 16,
    grace: Annotated[
        int, typer.Option(min=0, help="Stop and requeue so many seconds before the limit.")
    ] = 120,
    option: Annotated[
        list[str] | None, typer.Option(help="A further option of sbatch: --option=--partition=gpu.")
    ] = None,
    send: Send = False,
) -> None:
    """Print a batch script for Slurm, or submit it by `sbatch`."""
    from flows.submit import slurm_script

    text = slurm_script(
        _analysis(config), nodes, duration=time, memory=memory, grace=grace, options=option or ()
    )
    _print_or_send("slurm", text, send)


@submit.command()
def kuberay(
    config: Config,
    image: Annotated[
        str, typer.Option(help="Container image, built from infra/docker/Dockerfile.")
    ],
    nodes: Nodes = 1,
    memory: Memory = 16,
    standing: Annotated[
        bool, typer.Option("--standing", help="A persistent Ray cluster, without the analysis.")
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
    """Print manifests for the KubeRay operator, or submit them by `kubectl create`."""
    from flows.submit import kuberay_manifest

    text = kuberay_manifest(
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
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="URL of the cluster's dashboard.")
    ] = "http://127.0.0.1:8265",
    runtime_env: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A YAML file with a runtime environment of Ray."),
    ] = None,
    send: Send = False,
) -> None:
    """Print a script that submits to an existing Ray cluster by `ray job submit`, or run it.

    The runtime environment (pip, working_dir, env_vars, ...) is that of the flow and its workers.
    """
    from flows.runtime_env import read_runtime_env
    from flows.submit import ray_job_script

    more = read_runtime_env(runtime_env) if runtime_env else {}
    _print_or_send("ray", ray_job_script(_analysis(config), address, more), send)


@app.command()
def pool(
    kind: Annotated[str, typer.Argument(help="process, docker or kubernetes.")],
    image: Annotated[
        str | None, typer.Option(help="Container image, built from infra/docker/Dockerfile.")
    ] = None,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of each run in a container.")] = 0,
    secret: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VARIABLE=BLOCK",
            help="Variable of the runs with the value of a secret block; for kubernetes, the name "
            "of a Secret, whose keys become variables.",
        ),
    ] = None,
) -> None:
    """Print the base job template of a Prefect work pool, for `prefect work-pool create`."""
    from flows.pools import base_job_template

    say_json(base_job_template(kind, image, gpus, secret or ()))


@app.command()
def doctor(
    config: Annotated[
        str | None, typer.Argument(help="Also check what this analysis needs.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check everything that a run depends on; each failed check says what to do.

    Exit code 2 if the analysis itself would be refused, 1 if another check fails.
    """
    from flows.doctor import Check, run_checks

    analysis, wrong = None, []
    try:
        analysis = _analysis(config) if config else None
    except InputError as error:  # the other checks are of use all the same
        wrong = [Check("config", False, line, of_request=True) for line in str(error).splitlines()]
    checks = [*wrong, *run_checks(analysis)]
    if as_json:
        say_json([vars(check) for check in checks])
    else:
        for check in checks:
            message = check.message.removeprefix(f"{check.name}: ")
            say(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {message}")
    failed = [check for check in checks if not check.ok]
    if failed:
        raise typer.Exit(2 if any(check.of_request for check in failed) else 1)


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
        say_lines(text.removesuffix("\n"))
    elif code := send_to(target, text):
        raise typer.Exit(code)
