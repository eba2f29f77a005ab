"""What runs an analysis on a cluster: scripts and manifests, filled in from its configuration.

The templates are in `infra/`; each target is one text, and a command that takes it from its
standard input. The text holds the whole analysis, so that what is printed is what runs.
"""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from shlex import quote
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.config import Analysis, Workers, measure_files
from pipeline.errors import InputError
from pipeline.store.objects import store_name

SENDERS = {
    "slurm": ["sbatch"],
    "kuberay": ["kubectl", "create", "-f", "-"],
    "ray": ["bash"],
}


@dataclass(frozen=True)
class Share:
    """What each of `nodes` equal nodes needs for its workers: whole CPUs and whole GPUs."""

    nodes: int
    workers: int
    cpus: int
    gpus: int


def share_of(workers: Workers, nodes: int) -> Share:
    """Spread the workers over nodes. Several workers share a GPU where each asks for a part."""
    if nodes > workers.count:
        raise InputError(
            f"{nodes} nodes for {workers.count} workers: raise workers.count or lower --nodes"
        )
    if workers.device == "cuda" and not workers.gpus:
        raise InputError(
            "workers.gpus is 0 with device cuda: a cluster gives GPUs to those who ask; say what "
            "each worker needs, as in gpus: 1, or gpus: 0.25 for four workers on each GPU"
        )
    each = math.ceil(workers.count / nodes)
    return Share(nodes, each, math.ceil(each * workers.cpus), _whole_gpus(each, workers.gpus))


def _whole_gpus(workers: int, each: float) -> int:
    """A worker never spans two GPUs in part: three with 0.4 each need two GPUs."""
    if each == int(each):
        return workers * int(each)
    if each > 1:
        raise InputError(
            f"workers.gpus is {each:g}: more than one GPU must be a whole number, Ray gives no "
            "parts beyond the first"
        )
    return math.ceil(workers / math.floor(1 / each + 1e-9))


def for_slurm(
    analysis: Analysis,
    nodes: int = 1,
    *,
    duration: str = "24:00:00",
    memory: int = 16,
    grace: int = 120,
    options: Sequence[str] = (),
) -> str:
    """A batch script: one allocation, in it a Ray cluster, in that the flow.

    duration: the job's time limit. memory: GiB on each node. grace: seconds before its end at
    which the analysis is told to stop. options: further ones of sbatch.
    """
    return _rendered(
        "slurm/job.sbatch.j2",
        analysis,
        share=share_of(analysis.workers, nodes),
        time=duration,
        memory=memory,
        grace=grace,
        options=options,
        python_folder=str(Path(sys.executable).parent),
    )


def for_kuberay(
    analysis: Analysis,
    image: str,
    nodes: int = 1,
    *,
    standing: bool = False,
    memory: int = 16,
    namespace: str | None = None,
    secret: str = "ontogeny-s3",
    volumes: Sequence[tuple[str, str]] = (),
) -> str:
    """A RayJob with its analysis in a ConfigMap; standing: a RayCluster that is there for others.

    image: see `infra/docker`. memory: GiB of each worker's pod. secret: whose keys become the
    pods' environment, credentials above all. volumes: claims, and where they are mounted.
    """
    _refuse_what_pods_lack(analysis, [path for _, path in volumes])
    return _rendered(
        "kuberay/cluster.yaml.j2" if standing else "kuberay/job.yaml.j2",
        analysis,
        # A finished job keeps its name; a standing cluster is found by its own.
        name=_name(analysis) if standing else _unique(_name(analysis)),
        share=share_of(analysis.workers, nodes),
        image=image,
        memory=memory,
        namespace=namespace,
        secret=secret,
        volumes=volumes,
        analysis_mounted=not standing,
        on_s3=any(place.startswith("s3://") for place in _places(analysis)),
        ray_version=version("ray"),
    )


def for_ray(analysis: Analysis, address: str) -> str:
    """A shell script: `ray job submit` to a cluster that stands, at its dashboard's URL."""
    variables = _environment()
    return _rendered(
        "machines/ray-job.sh.j2",
        analysis,
        name=_unique(_name(analysis)),
        address=address,
        runtime_env=json.dumps({"env_vars": variables}) if variables else None,
        workers=analysis.workers,
    )


def send(target: str, text: str) -> int:
    """Hand the text to the target's own command; its exit code."""
    command = SENDERS[target]
    if shutil.which(command[0]) is None:
        raise InputError(
            f"{command[0]}: not found on this machine: run this where {target} is submitted from, "
            "or leave out --send and take the text there"
        )
    return subprocess.run(command, input=text, text=True).returncode


def _rendered(template: str, analysis: Analysis, **facts: Any) -> str:
    environment = Environment(
        loader=PackageLoader("infra", ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quote"] = quote
    common = {
        "name": _name(analysis),
        "store": analysis.store,
        "count": analysis.workers.count,
        "config": _config(analysis),
        "environment": _environment(),
    }
    return environment.get_template(template).render(common | facts)


def _config(analysis: Analysis) -> str:
    """The analysis as YAML. Unset is left out, not what is at its default: that names kinds."""
    given = analysis.model_dump(mode="json", exclude_unset=True)
    return yaml.safe_dump(given, sort_keys=False, allow_unicode=True).rstrip()


def _environment() -> dict[str, str]:
    """What a flow elsewhere has to know of this environment; secrets are not printed."""
    url = os.environ.get("PREFECT_API_URL")
    return {"PREFECT_API_URL": url} if url else {}


def _name(analysis: Analysis) -> str:
    """After the store, in letters that Kubernetes allows (and within KubeRay's 47 of them)."""
    store = store_name(analysis.store).lower()
    return f"ontogeny-{re.sub('[^a-z0-9]+', '-', store).strip('-')}"[:31].rstrip("-")


def _unique(name: str) -> str:
    return f"{name}-{time.strftime('%y%m%d-%H%M%S', time.gmtime())}"


def _places(analysis: Analysis) -> list[str]:
    """Everything that the analysis reads or writes."""
    paths = [getattr(spec, "path", None) for spec in analysis.inputs.values()]
    return [analysis.checkpoints, analysis.store, *filter(None, paths), *measure_files(analysis)]


def _refuse_what_pods_lack(analysis: Analysis, mounted: Sequence[str]) -> None:
    for place in _places(analysis):
        if "://" not in place and not any(Path(place).is_relative_to(path) for path in mounted):
            raise InputError(
                f"{place}: is on this machine, pods do not see it: use s3://, or mount a claim "
                "there with --volume CLAIM:PATH"
            )
