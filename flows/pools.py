"""Base job templates of Prefect's work pools, with the image, the GPUs and the credentials of runs.

A template is that of the worker itself, with these differences. Credentials are named, never held:
a worker reads Prefect's blocks when it starts a run, and Kubernetes its own secret. (In the job
variables of a deployment, `prefect deploy` would replace the name of a block by its secret.)
"""

import re
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from pipeline.errors import InputError
from pipeline.extras import require
from pipeline.redaction import secret_in

_WORKERS = {
    "process": ("prefect.workers.process", "ProcessWorker"),
    "docker": ("prefect_docker.worker", "DockerWorker"),
    "kubernetes": ("prefect_kubernetes.worker", "KubernetesWorker"),
}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BLOCK = re.compile(r"[a-z0-9][a-z0-9-]*(\.[\w.-]+)*")
_SECRET = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


def base_job_template(
    kind: str, image: str | None, gpus: int = 0, secrets: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the base job template of a work pool of a kind: process, docker or kubernetes.

    image: of containers. gpus: for each run in a container; a process uses those of its machine.
    secrets: VARIABLE=BLOCK, an environment variable of the runs with the value of a secret block
    of Prefect; or for Kubernetes names of its secrets, whose keys become variables. Raises
    InputError for what does not fit the kind.
    """
    template = _template_of_worker(kind)
    if (kind == "process") != (image is None):
        raise InputError(
            "--image: a process has no image: leave it out"
            if kind == "process"
            else f"{kind} needs --image IMAGE, built from infra/docker/Dockerfile"
        )
    if kind == "process" and gpus:
        raise InputError("--gpus: a process uses the GPUs of its machine: leave it out")
    if image is not None:
        _set_image(template, image)
    if kind == "kubernetes":
        _complete_manifest(template["job_configuration"]["job_manifest"], gpus, secrets)
    elif secrets:
        # The worker joins these with the variables of the deployment, and reads the blocks then.
        _set_default(template, "env", dict(map(_reference, secrets)))
    if kind == "docker" and gpus:
        request = {"count": gpus, "capabilities": [["gpu"]]}
        _set_default(template, "container_create_kwargs", {"device_requests": [request]})
    return template


def _template_of_worker(kind: str) -> dict[str, Any]:
    if kind not in _WORKERS:
        raise InputError(f"{kind}: unknown kind of work pool; known are: {', '.join(_WORKERS)}")
    module, name = _WORKERS[kind]
    require(module.partition(".")[0])
    worker = getattr(import_module(module), name)
    return worker.get_default_base_job_template()


def _set_image(template: dict[str, Any], image: str) -> None:
    if secret_in(image) or not image or not image.isprintable() or " " in image:
        raise InputError("--image: expected the name of an image, as in registry/ontogeny:1")
    _set_default(template, "image", image)
    # Docker's worker would pull an image that is on its machine only.
    _set_default(template, "image_pull_policy", "IfNotPresent")


def _set_default(template: dict[str, Any], variable: str, value: Any) -> None:
    template["variables"]["properties"][variable]["default"] = value


def _complete_manifest(manifest: dict[str, Any], gpus: int, secrets: Sequence[str]) -> None:
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    if wrong := [secret for secret in secrets if not _SECRET.fullmatch(secret)]:
        raise InputError(
            f"--secret {wrong[0][:100]!r}: expected the name of a secret of Kubernetes, whose keys "
            "become variables"
        )
    if secrets:
        container["envFrom"] = [{"secretRef": {"name": secret}} for secret in secrets]
    if gpus:
        container["resources"]["limits"]["nvidia.com/gpu"] = gpus


def _reference(secret: str) -> tuple[str, str]:
    variable, _, block = secret.partition("=")
    if not _VARIABLE.fullmatch(variable) or not _BLOCK.fullmatch(block):
        # It is not repeated: somebody may have given the secret itself.
        raise InputError(
            "--secret: expected VARIABLE=BLOCK, as in AWS_ACCESS_KEY_ID=s3-key, with the name of a "
            "secret block of Prefect, never the secret itself"
        )
    kind = "" if "." in block else "secret."
    return variable, f"{{{{ prefect.blocks.{kind}{block} }}}}"
