"""The deployments of `prefect.yaml` and the automations of the examples, on a real server."""

import json
import os
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from prefect.blocks.webhook import Webhook
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment

from pipeline.models.organism import OrganismForCausalLM
from tests.pipeline.hand_built import hand_built

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(900)  # six processes that import torch, one after another


@pytest.fixture(scope="module")
def worker(server: str) -> Iterator[None]:
    """Create a pool, the deployments and a worker, as docs/operating.md says."""
    prefect("work-pool", "create", "ontogeny", "--type", "process")
    prefect("deploy", "--all")
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "ontogeny"]
    environment = {**os.environ, "PREFECT_WORKER_QUERY_SECONDS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    yield
    process.kill()  # it runs nothing any more
    process.wait()


def prefect(*arguments: str) -> None:
    command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


@pytest.fixture(scope="module")
def webhook_messages(
    server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator["queue.Queue[str]"]:
    """Create the automations; yield a queue of the messages that their webhook receives."""
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
        block = Webhook(url=f"http://127.0.0.1:{listener.server_port}").save("webhook")  # type: ignore
        automations = (ROOT / "examples" / "automations.yaml").read_text()
        named = tmp_path_factory.mktemp("automations") / "automations.yaml"
        named.write_text(
            re.sub(r"block_document_id: .*", f"block_document_id: {block}", automations)
        )
        prefect("automation", "create", "--from-file", str(named))
        yield messages
        listener.shutdown()


def run_to_end(deployment: str, **parameters: Any) -> FlowRun:
    """Run a deployment; return its flow run after it has ended."""
    run = run_deployment(deployment, parameters=parameters, timeout=300, poll_interval=0.5)
    assert isinstance(run, FlowRun) and run.state and run.state.is_final(), run
    return run


@pytest.mark.usefixtures("worker")
def test_flows_report_an_onset_and_a_damaged_store(
    tmp_path: Path, webhook_messages: "queue.Queue[str]"
) -> None:
    written = hand_built()
    torch.manual_seed(0)
    OrganismForCausalLM(written.config).save_pretrained(tmp_path / "run" / "step-0")
    written.save_pretrained(tmp_path / "run" / "step-100")
    analysis: dict[str, Any] = {
        "checkpoints": str(tmp_path / "run"),
        "store": str(tmp_path / "grown.zarr"),
        "inputs": {"repeated": {"kind": "repeated", "block_length": 8, "sequences": 4}},
        "measures": {"head_scores": {}, "weight_norm": {}},
    }

    first = run_to_end("analyze/on-demand", analysis=analysis)
    assert first.state.is_completed(), first.state
    assert (first.name, set(first.tags)) == ("grown: all steps", {"ontogeny", "grown"})
    said = {webhook_messages.get(timeout=60), webhook_messages.get(timeout=60)}
    assert {one.partition(":")[0] for one in said} == {
        "The first induction head formed", "The first previous-token head formed",
    }, said  # fmt: skip
    assert all("step 100" in one for one in said)

    # Without anything new, a watch computes nothing and emits nothing.
    again = run_to_end("analyze/watch", analysis=analysis)
    assert again.state.is_completed() and "0 computed" in again.state.message, again.state

    analysis["inputs"]["repeated"]["sequences"] = 6
    config = tmp_path / "grown.yaml"
    config.write_text(json.dumps(analysis))
    changed = run_to_end("reanalyze/after-a-change", analyses=[str(config)])
    assert changed.state.message == "1 of 1 analyses changed, 0 failed"
    unchanged = run_to_end("reanalyze/after-a-change", analyses=[str(config)])
    assert unchanged.state.message == "0 of 1 analyses changed, 0 failed"

    # Two checkpoints times two measures, and the rows of one measure from before the change.
    sound = run_to_end("verify/nightly", stores=[analysis["store"]])
    assert sound.state.is_completed() and sound.state.message == "stores: 1, rows: 6, faults: 0"
    assert webhook_messages.empty()

    chunk = next(Path(analysis["store"]).glob("rows/weight_norm/*/*/c/1/**/*"))
    chunk.write_bytes(chunk.read_bytes()[:-1])
    damaged = run_to_end("verify/nightly", stores=[analysis["store"]])
    assert damaged.state.is_failed() and "faults: 1" in damaged.state.message
    assert damaged.state.message in webhook_messages.get(timeout=60)
