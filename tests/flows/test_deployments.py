"""The deployments of `prefect.yaml` and the automations, on a real server with a worker."""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from moto.server import ThreadedMotoServer
from prefect.blocks.system import Secret
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import run_deployment
from prefect.states import Pending
from prefect.variables import Variable
from s3fs import S3FileSystem
from typer.testing import CliRunner

from flows.automations import deploy_automations
from flows.cli import app
from flows.reanalyze import reanalyze
from flows.verify import verify
from pipeline.errors import InputError
from pipeline.models.organism import OrganismForCausalLM
from tests.pipeline.hand_built import hand_built

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(900)  # four processes that import torch, one after another


KEYS = {"AWS_ACCESS_KEY_ID": "key-of-tests-7c1", "AWS_SECRET_ACCESS_KEY": "hushhush-7c1"}


@pytest.fixture(scope="module")
def bucket() -> Iterator[S3FileSystem]:
    """Start an S3 server with a bucket; yield a client of it."""
    s3 = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    s3.start()
    host, port = s3.get_host_and_port()
    key, secret = KEYS.values()
    client = S3FileSystem(key=key, secret=secret, endpoint_url=f"http://{host}:{port}")
    client.mkdir("runs")
    yield client
    client.rm("runs", recursive=True)  # all servers of a process share their buckets
    s3.stop()


@pytest.fixture(scope="module")
def worker(
    server: str, bucket: S3FileSystem, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Create a pool, the deployments and a worker, as docs/operating.md says.

    Only blocks of the server hold the keys of S3.
    """
    for variable, value in KEYS.items():
        Secret(value=value).save(variable.lower().replace("_", "-"))  # type: ignore
    secrets = [f"--secret={one}={one.lower().replace('_', '-')}" for one in KEYS]
    template = tmp_path_factory.mktemp("pool") / "pool.json"
    template.write_text(ontogeny("pool", "process", *secrets))
    assert not any(value in template.read_text() for value in KEYS.values())
    pool = ("work-pool", "create", "ontogeny", "--type", "process")
    prefect(*pool, "--base-job-template", str(template))
    prefect("deploy", "--all")
    environment = {name: value for name, value in os.environ.items() if name not in KEYS}
    environment |= {"PREFECT_WORKER_QUERY_SECONDS": "1", "AWS_ENDPOINT_URL": bucket.endpoint_url}
    start = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "ontogeny"]
    process = subprocess.Popen(start, cwd="/", env=environment, stdout=subprocess.DEVNULL)
    yield
    process.kill()  # it runs nothing any more
    process.wait()


def ontogeny(*arguments: str) -> str:
    """Run a command in this process, which need not import Prefect again; return what it prints."""
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 0, ran.output
    return ran.stdout


def prefect(*arguments: str) -> None:
    """Run a command of Prefect in the repository."""
    words = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
    there = {"cwd": ROOT, "env": {**os.environ, "PWD": str(ROOT)}}
    ran = subprocess.run(words, **there, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def webhook_messages(server: str) -> Iterator["queue.Queue[str]"]:
    """Create the automations twice; yield a queue of the messages that their webhook receives."""
    messages: queue.Queue[str] = queue.Queue()

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            messages.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Listener) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        Webhook(url=f"http://127.0.0.1:{listener.server_port}").save("team")  # type: ignore
        unsent = json.loads(ontogeny("automations", "--json"))
        assert list(unsent.values()).count("created") == 2
        assert unsent["ontogeny failed"].startswith("left out")
        with get_client(sync_client=True) as client:
            (paused,) = client.read_automations_by_name("ontogeny lost")
            client.pause_automation(paused.id)
            done = deploy_automations("webhook/team")
            assert set(done.values()) == {"created", "updated"}
            assert set(deploy_automations(None).values()) == {"updated", "left as it is"}
            found = {one.name: one for one in client.read_automations()}
        assert found.keys() == done.keys() and not found["ontogeny lost"].enabled
        yield messages
        listener.shutdown()


def run_to_end(deployment: str, **parameters: Any) -> FlowRun:
    """Run a deployment; return its flow run after it has ended."""
    run = run_deployment(deployment, parameters=parameters, timeout=300, poll_interval=0.5)
    assert isinstance(run, FlowRun) and run.state and run.state.is_final(), run
    return run


def all_about(run: FlowRun) -> str:
    """Return all that the server shows of a flow run: itself, its log, artifacts, deployment."""
    this = {"flow_runs": {"id": {"any_": [str(run.id)]}}}
    body = {"flow_run_id": {"any_": [str(run.id)]}}
    with get_client(sync_client=True) as client:
        shown = [
            client.request("GET", f"/flow_runs/{run.id}"),
            client.request("POST", "/logs/filter", json={"logs": body}),
            client.request("POST", "/artifacts/filter", json=this),
            client.request("POST", "/task_runs/filter", json=this),
            client.request("GET", f"/deployments/{run.deployment_id}"),
            client.request("GET", "/work_pools/ontogeny"),
        ]
    assert len(shown[1].json()) > 3 and len(shown[2].json()) > 3
    return "".join(one.text for one in shown)


@pytest.mark.usefixtures("worker")
def test_flows_report_an_onset_and_a_damaged_store(
    tmp_path: Path,
    bucket: S3FileSystem,
    webhook_messages: "queue.Queue[str]",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Run each deployment by the worker; what changes nothing, in this process, which is faster."""
    written = hand_built()
    torch.manual_seed(0)
    OrganismForCausalLM(written.config).save_pretrained(tmp_path / "run" / "step-0")
    written.save_pretrained(tmp_path / "run" / "step-100")
    bucket.put(f"{tmp_path}/run", "runs/grown", recursive=True)
    config = tmp_path / "grown.yaml"
    Variable.set("ontogeny_checkpoints", "s3://runs/")
    Variable.set("ontogeny_store", str(tmp_path / "grown.zarr"))
    Variable.set("ontogeny_analysis", str(config))
    analysis: dict[str, Any] = {
        "checkpoints": "variable://ontogeny_checkpoints/grown",
        "store": "variable://ontogeny_store",
        "inputs": {"repeated": {"kind": "repeated", "block_length": 8, "sequences": 4}},
        "measures": {"head_scores": {}, "weight_norm": {}},
    }

    first = run_to_end("analyze/on-demand", analysis=analysis)
    assert first.state.is_completed(), first.state
    assert set(first.tags) == {"ontogeny", "analyze", "grown"}
    assert not any(value in all_about(first) for value in KEYS.values())
    said = {webhook_messages.get(timeout=120), webhook_messages.get(timeout=120)}
    assert {one.partition(":")[0] for one in said} == {
        "The first induction head formed", "The first previous-token head formed",
    }, said  # fmt: skip
    assert all("step 100" in one for one in said)

    # Without anything new, a watch computes nothing and emits nothing.
    again = run_to_end("analyze/watch", analysis=analysis)
    assert again.state.is_completed() and "0 computed" in again.state.message, again.state

    analysis["inputs"]["repeated"]["sequences"] = 6
    config.write_text(json.dumps(analysis))
    changed = run_to_end("reanalyze/after-a-change")
    assert changed.state.message == "1 of 1 analyses changed, 0 failed"
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": bucket.endpoint_url}.items():
        monkeypatch.setenv(name, value)
    unchanged = reanalyze(["variable://ontogeny_analysis"], return_state=True)
    assert unchanged.message == "0 of 1 analyses changed, 0 failed"

    # Two checkpoints times two measures, and the rows of one measure from before the change.
    sound = verify(["variable://ontogeny_store"], return_state=True)
    assert sound.is_completed() and sound.message == "stores: 1, rows: 6, faults: 0"
    assert webhook_messages.empty()

    pack = next((tmp_path / "grown.zarr").glob("packs/*/weight_norm/*"))
    pack.write_bytes(pack.read_bytes()[:-1])
    damaged = run_to_end("verify/nightly")
    assert damaged.state.is_failed() and "faults: 1" in damaged.state.message
    assert damaged.state.message in webhook_messages.get(timeout=120)


def test_a_run_that_is_skipped_is_shown_as_skipped(webhook_messages: "queue.Queue[str]") -> None:
    """Let a second run be due while the first has the only slot; the automation names its state."""
    limit = {"concurrency_limit": 1, "concurrency_options": {"collision_strategy": "CANCEL_NEW"}}
    with get_client(sync_client=True) as client:
        flow = client.create_flow_from_name("due")
        content = {"name": "d", "flow_id": str(flow), "tags": ["ontogeny"], **limit}
        deployment = client.request("POST", "/deployments/", json=content).json()["id"]
        first, second = (client.create_flow_run_from_deployment(deployment).id for _ in range(2))
        for run in (first, second):
            client.set_flow_run_state(run, Pending())
        deadline = time.monotonic() + 120
        while (state := client.read_flow_run(second).state) and state.name != "Skipped":
            assert time.monotonic() < deadline, state
            time.sleep(0.2)
        assert state and state.message == "the run before is still in progress"
        assert client.read_flow_run(first).state_type == StateType.PENDING
    assert webhook_messages.empty()


def test_messages_need_a_block_that_sends_them(worker: None) -> None:
    with pytest.raises(InputError, match="webhook/nobody: there is no such block"):
        deploy_automations("webhook/nobody")
    with pytest.raises(InputError, match="of this type sends no messages"):
        deploy_automations("secret/aws-access-key-id")
