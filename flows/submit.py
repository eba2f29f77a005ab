"""Scripts and manifests that run an analysis on a cluster.

The templates are in `flows/templates/`. For each target one text is rendered, which the target's
own command reads from standard input. It contains the whole analysis, so that later changes of the
configuration file do not affect it.

Values are data: shells get them quoted, YAML as quoted scalars, comments without line breaks. Where
a target has its own rules for a value, such as the names of Kubernetes, others are refused.
"""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from shlex import quote
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.addresses import require_no_secret
from pipeline.config import Analysis, Workers, dump_yaml, measure_files
from pipeline.errors import InputError
from pipeline.printable import printable
from pipeline.store.store_names import store_name

COMMANDS = {
    "slurm": ["sbatch"],
    "kuberay": ["kubectl", "create", "-f", "-"],
    "ray": ["bash"],
}

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,499}")
_MOUNT = re.compile(r"/[^:\0\n]{0,1023}")
_DURATION = re.compile(r"\d{1,6}(:\d{1,2}){0,2}|\d{1,4}-\d{1,2}(:\d{1,2}){0,2}|UNLIMITED|INFINITE")
# Without quotes, backslashes and "#", which sbatch would interpret.
_OPTION = re.compile(r"--?[A-Za-z][A-Za-z0-9 ._,:;=/@%+*^~()|&!\[\]{}<>-]{0,999}")
_URL = re.compile(r"[a-z]+://[!-~]{1,2000}|auto")


@dataclass(frozen=True)
class Allocation:
    """Equal nodes: the workers on each, and the CPUs and GPUs that these need."""

    nodes: int
    workers: int
    cpus: int
    gpus: int


def allocate(workers: Workers, nodes: int) -> Allocation:
    """Spread the workers over nodes. Workers that ask for a part of a GPU share GPUs."""
    if nodes > workers.count:
        raise InputError(
            f"{nodes} nodes for {workers.count} workers: raise workers.count or lower --nodes"
        )
    if workers.device == "cuda" and not workers.gpus:
        raise InputError(
            "workers.gpus is 0 with device cuda: clusters assign GPUs on request; set what "
            "each worker needs, as in gpus: 1, or gpus: 0.25 for four workers on each GPU"
        )
    each = math.ceil(workers.count / nodes)
    return Allocation(nodes, each, math.ceil(each * workers.cpus), _whole_gpus(each, workers.gpus))


def _most_nodes(workers: Workers, nodes: int) -> int:
    """Return how many of these nodes the workers need at most; see `Workers.max_count`."""
    # Full nodes may be fewer than these: five workers on four nodes are two on each.
    return max(nodes, math.ceil(workers.most / allocate(workers, nodes).workers))


def _whole_gpus(workers: int, each: float) -> int:
    """Return the GPUs that so many workers need on one node."""
    if each == int(each):
        return workers * int(each)
    if each > 1:
        raise InputError(
            f"workers.gpus is {each:g}: more than one GPU must be a whole number, as Ray "
            "divides only single GPUs"
        )
    # A worker never uses parts of two GPUs: three with 0.4 each need two. The small number keeps a
    # rounding error from costing a worker: 1 / 0.1 may be a little less than 10.
    return math.ceil(workers / math.floor(1 / each + 1e-9))


def slurm_script(
    analysis: Analysis,
    nodes: int = 1,
    *,
    duration: str = "24:00:00",
    memory: int = 16,
    grace: int = 120,
    options: Sequence[str] = (),
) -> str:
    """Return a batch script that starts a Ray cluster in its allocation and runs the flow in it.

    duration: the job's time limit. memory: GiB on each node. grace: seconds before the time limit
    at which the analysis is stopped and requeued. options: further options of sbatch.
    """
    _require("--time", duration, _DURATION, "a time limit of Slurm, such as 24:00:00 or 2-00")
    for option in options:
        _require("--option", option, _OPTION, "an option of sbatch, such as --partition=gpu")
    return _render(
        "slurm/job.sbatch.j2",
        analysis,
        allocation=allocate(analysis.workers, nodes),
        time=duration,
        memory=memory,
        grace=grace,
        options=options,
        # The job's shell may have another PATH: this environment is named explicitly.
        python_folder=str(Path(sys.executable).parent),
        machines=str(Path(__file__).resolve().parent / "machines"),
    )


def kuberay_manifest(
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
    """Return a RayJob with its analysis in a ConfigMap, or a RayCluster without an analysis.

    image: built from `infra/docker/Dockerfile`. standing: return a persistent RayCluster. memory:
    GiB of each worker's pod. secret: its keys, such as credentials, become environment variables of
    the pods. volumes: volume claims and their mount paths.
    """
    named = "a name of Kubernetes: a-z, 0-9 and '-'"
    if namespace is not None:
        _require("--namespace", namespace, _LABEL, named)
    _require("--secret", secret, _SUBDOMAIN, f"{named}, and '.'")
    _require("--image", image, _IMAGE, "an image, such as registry.example/ontogeny:1.0")
    for claim, path in volumes:
        _require("--volume", claim, _LABEL, named)
        _require("--volume", path, _MOUNT, "a path within the pod")
    _require_visible_in_pods(analysis, [path for _, path in volumes])
    return _render(
        "kuberay/cluster.yaml.j2" if standing else "kuberay/job.yaml.j2",
        analysis,
        # A finished job keeps its name, so each job needs another one. A persistent cluster is
        # found by its name, which therefore stays the same.
        name=_name(analysis) if standing else _unique(_name(analysis)),
        allocation=allocate(analysis.workers, nodes),
        max_nodes=_most_nodes(analysis.workers, nodes),
        image=image,
        memory=memory,
        namespace=namespace,
        secret=secret,
        volumes=volumes,
        analysis_mounted=not standing,
        on_s3=any(place.startswith("s3://") for place in _places(analysis)),
        ray_version=version("ray"),
    )


def ray_job_script(
    analysis: Analysis, address: str, runtime_env: Mapping[str, Any] | None = None
) -> str:
    """Return a shell script that submits the flow to the Ray cluster with this dashboard URL.

    runtime_env: as `flows.runtime_env.read_runtime_env` returns it. Its working folder is uploaded
    together with the analysis.
    """
    _require("--address", address, _URL, "a URL, such as http://127.0.0.1:8265")
    given = dict(runtime_env or {})
    folder = given.pop("working_dir", None)
    variables = {**_environment(), **given.pop("env_vars", {})}
    given |= {"env_vars": variables} if variables else {}
    return _render(
        "ray/job.sh.j2",
        analysis,
        name=_unique(_name(analysis)),
        address=address,
        folder=folder,
        runtime_env=json.dumps(given) if given else None,
        workers=analysis.workers,
    )


def send(target: str, text: str) -> int:
    """Pass the text to the target's own command; return its exit code."""
    command = COMMANDS[target]
    if shutil.which(command[0]) is None:
        raise InputError(
            f"{command[0]}: not found on this machine: run this on a machine that submits to "
            f"{target}, or leave out --send and copy the text there"
        )
    # Its output is the cluster's own message with the job's number, so it is not captured.
    return subprocess.run(command, input=text, text=True).returncode


def _render(template: str, analysis: Analysis, **facts: Any) -> str:
    environment = Environment(
        loader=PackageLoader("flows", "templates"),
        undefined=StrictUndefined,  # a misspelt name fails here instead of printing nothing
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "quote": quote,
        "comment": printable,
        "yaml": _yaml_scalar,
        "end_mark": _end_mark,
    }
    common = {
        "name": _name(analysis),
        "store": analysis.store,
        "count": analysis.workers.count,
        "config": _config(analysis),
        "environment": _environment(),
    }
    return environment.get_template(template).render(common | facts)


def _config(analysis: Analysis) -> str:
    """Return the analysis as YAML, without the fields that are not set."""
    # Fields that are set to their default stay: the `kind` of an input is one of them.
    return dump_yaml(analysis.model_dump(mode="json", exclude_unset=True)).rstrip()


def _yaml_scalar(text: str) -> str:
    """Return a text as a double-quoted scalar, which every version of YAML reads alike."""
    return yaml.safe_dump(text, default_style='"', width=math.inf).rstrip()


def _end_mark(text: str) -> str:
    """Return a line that ends a here-document, and which the text does not hold."""
    mark = "ANALYSIS"
    while mark in text.splitlines():
        mark += "_"
    return mark


def _require(option: str, value: str, pattern: re.Pattern[str], expected: str) -> None:
    """Raise InputError for a value that the target's own rules do not allow, or with a secret."""
    require_no_secret(value, option)
    if not pattern.fullmatch(value) or not value.isprintable():
        raise InputError(f"{option} {value[:200]!r}: expected {expected}")


def _environment() -> dict[str, str]:
    """Return the environment variables that a remote flow needs; never those with secrets."""
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return {}
    _require("PREFECT_API_URL", url, _URL, "the URL of a Prefect server")
    return {"PREFECT_API_URL": url}


def _name(analysis: Analysis) -> str:
    """Return a name that Kubernetes accepts, made from the store's name."""
    # KubeRay allows 47 characters; `_unique` adds 14.
    store = store_name(analysis.store).lower()
    return f"ontogeny-{re.sub('[^a-z0-9]+', '-', store).strip('-')}"[:31].rstrip("-")


def _unique(name: str) -> str:
    return f"{name}-{time.strftime('%y%m%d-%H%M%S', time.gmtime())}"


def _places(analysis: Analysis) -> list[str]:
    """Return all addresses that the analysis reads or writes."""
    paths = [getattr(spec, "path", None) for spec in analysis.inputs.values()]
    return [analysis.checkpoints, analysis.store, *filter(None, paths), *measure_files(analysis)]


def _require_visible_in_pods(analysis: Analysis, mounted: Sequence[str]) -> None:
    """Raise InputError for a path that is neither on S3 nor on a mounted claim."""
    for place in _places(analysis):
        if "://" not in place and not any(Path(place).is_relative_to(path) for path in mounted):
            raise InputError(
                f"{place}: is on this machine, where pods cannot read it: use s3://, or mount a "
                "claim there with --volume CLAIM:PATH"
            )
