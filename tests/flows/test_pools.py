"""Work pools: their templates, and the jobs that Prefect's own workers make of `infra/pools.yaml`.

No Docker daemon and no Kubernetes runs here: each job is rendered by the worker's code, and checked
against what the client library of Docker or Kubernetes knows.
"""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import docker
import pytest
import yaml
from docker.models.containers import _create_container_args
from kubernetes_asyncio import client as kubernetes
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, WorkPool
from prefect_docker.worker import DockerWorker, DockerWorkerJobConfiguration
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration
from prefect_slurm.worker import SlurmWorker
from typer.testing import CliRunner

from flows.cli import app
from flows.pools import base_job_template
from pipeline.errors import InputError

POOLS = Path(__file__).parents[2] / "infra" / "pools.yaml"


def rendered(configuration: Any, template: dict[str, Any], name: str) -> Any:
    """Return the job of a deployment of `infra/pools.yaml`, as the worker makes it."""
    deployments = PrefectYamlModel.model_validate(yaml.safe_load(POOLS.read_text())).deployments
    (values,) = (one.work_pool.job_variables for one in deployments if one.name == name)
    run = FlowRun(id=uuid4(), name="a run", flow_id=uuid4())
    pool = WorkPool(name="p", type="any", base_job_template=template, default_queue_id=uuid4())

    async def render() -> Any:
        async with get_client() as client:
            return await configuration.from_template_and_values(template, values, client=client)

    made = asyncio.run(render())
    made.prepare_for_flow_run(run, work_pool=pool, worker_name="worker")
    return made


class Daemon(BaseHTTPRequestHandler):
    """Answers the one question that the worker asks while it makes a container's settings."""

    def do_GET(self) -> None:
        assert self.path == "/v1.43/version"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b'{"Version": "27.0.0"}')

    def log_message(self, *_: Any) -> None:
        pass


def test_a_container_has_the_image_and_the_gpus() -> None:
    template = base_job_template("docker", "registry/ontogeny:1", gpus=2)
    made = rendered(DockerWorkerJobConfiguration, template, "docker")
    with HTTPServer(("127.0.0.1", 0), Daemon) as daemon:
        threading.Thread(target=daemon.serve_forever, daemon=True).start()
        client = docker.DockerClient(f"tcp://127.0.0.1:{daemon.server_port}", version="1.43")
        settings = DockerWorker("ontogeny-docker")._build_container_settings(client, made)
        daemon.shutdown()
    sent = _create_container_args({**settings, "version": "1.43"})
    assert (sent["image"], made.image_pull_policy) == ("registry/ontogeny:1", "IfNotPresent")
    (request,) = sent["host_config"]["DeviceRequests"]
    assert (request["Count"], request["Capabilities"]) == (2, [["gpu"]])
    assert sent["host_config"]["NetworkMode"] == "host"
    assert sent["environment"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
    assert sent["command"] == "prefect flow-run execute"


def test_a_job_of_kubernetes_has_only_fields_that_it_knows() -> None:
    template = base_job_template("kubernetes", "registry/ontogeny:1", 1, ["ontogeny-s3"])
    job = rendered(KubernetesWorkerJobConfiguration, template, "kubernetes").job_manifest
    # Fields of a Job that Prefect's own template has in its pod, where Kubernetes ignores them.
    ignored = {"spec.template.spec.completions", "spec.template.spec.parallelism"}
    assert set(unknown_fields(kubernetes.V1Job, job)) <= ignored
    assert list(unknown_fields(kubernetes.V1Job, {**job, "spec": {"tempalte": {}}}))
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry/ontogeny:1"
    assert container["envFrom"] == [{"secretRef": {"name": "ontogeny-s3"}}]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 1}
    assert container["resources"]["requests"] == {"memory": "16Gi"}
    assert {"name": "PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "value": "30"} in container["env"]


def unknown_fields(model: Any, content: Any, at: str = "") -> Any:
    """Yield the fields of a manifest that the client's model of its kind does not have."""
    names = {alias: name for name, alias in model.attribute_map.items()}
    for key, value in content.items():
        if key not in names:
            yield f"{at}{key}"
            continue
        kind = model.openapi_types[names[key]]
        inner = getattr(kubernetes, kind.removeprefix("list[").removesuffix("]"), None)
        for one in (value if isinstance(value, list) else [value]) if inner else ():
            yield from unknown_fields(inner, one, f"{at}{key}.")


def test_a_job_of_slurm_has_the_variables_of_the_deployment() -> None:
    template = SlurmWorker.get_default_base_job_template()
    made = rendered(SlurmWorker.job_configuration, template, "slurm")
    assert (made.cpu, made.memory, made.time_limit) == (8, 32, 24)
    assert str(made.source_files[0]) == ".venv/bin/activate"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("docker", None), "docker needs --image"),
        (("process", "an/image"), "a process has no image"),
        (("process", None, 1), "uses the GPUs of its machine"),
        (("podman", "i"), "podman: unknown kind of work pool"),
        (("docker", "https://me:hushhush@registry/i"), "expected the name of an image"),
        (("process", None, 0, ["wJalrXUtnFEMIhushhush"]), "expected VARIABLE=BLOCK"),
        (("process", None, 0, ["A=x y"]), "expected VARIABLE=BLOCK"),
        (("kubernetes", "i", 0, ["A=b"]), "expected the name of a secret of Kubernetes"),
    ],
)
def test_what_does_not_fit_the_kind_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        base_job_template(*arguments)
    assert "hushhush" not in str(refused.value)


def test_a_template_names_blocks_in_the_variables_only() -> None:
    secrets = ["--secret=HF_TOKEN=hub", "--secret=AWS_ACCESS_KEY_ID=aws-credentials.me.aws_id"]
    result = CliRunner().invoke(app, ["pool", "process", *secrets])
    template = json.loads(result.stdout)
    assert template["variables"]["properties"]["env"]["default"] == {
        "HF_TOKEN": "{{ prefect.blocks.secret.hub }}",
        "AWS_ACCESS_KEY_ID": "{{ prefect.blocks.aws-credentials.me.aws_id }}",
    }
    assert template["job_configuration"]["env"] == "{{ env }}"
