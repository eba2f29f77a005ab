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
    """What docs/operating.md says to do: a pool, the deployments, a worker."""
    prefect("work-pool", "create", "ontogeny", "--type", "process")
    prefect("deploy", "--all")
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "ontogeny"]
    soon = {**os.environ, "PREFECT_WORKER_QUERY_SECONDS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=soon, stdout=subprocess.DEVNULL)
    yield
    process.kill()  # nothing runs in it any more
    process.wait()


def prefect(*arguments: str) -> None:
    command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


@pytest.fixture(scope="module")
def heard(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator["queue.Queue[str]"]:
    """What the webhook of the automations is told."""
    said: queue.Queue[str] = queue.Queue()

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            said.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Listener) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        block = Webhook(url=f"http://127.0.0.1:{listener.server_port}").save("heard")  # type: ignore
        automations = (ROOT / "examples" / "automations.yaml").read_text()
        named = tmp_path_factory.mktemp("automations") / "automations.yaml"
        named.write_text(
            re.sub(r"block_document_id: .*", f"block_document_id: {block}", automations)
        )
        prefect("automation", "create", "--from-file", str(named))
        yield said
        listener.shutdown()


def ran(deployment: str, **parameters: Any) -> FlowRun:
    """A run of a deployment, after it has ended."""
    run = run_deployment(deployment, parameters=parameters, timeout=300, poll_interval=0.5)
    assert isinstance(run, FlowRun) and run.state and run.state.is_final(), run
    return run


@pytest.mark.usefixtures("worker")
def test_flows_report_an_onset_and_a_damaged_store(
    tmp_path: Path, heard: "queue.Queue[str]"
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

    first = ran("analyze/on-demand", analysis=analysis)
    assert first.state.is_completed(), first.state
    assert (first.name, set(first.tags)) == ("grown: all steps", {"ontogeny", "grown"})
    said = {heard.get(timeout=60), heard.get(timeout=60)}
    assert {one.partition(":")[0] for one in said} == {
        "The first induction head formed", "The first previous-token head formed",
    }, said  # fmt: skip
    assert all("step 100" in one for one in said)

    # Nothing new: a watch computes and says nothing.
    again = ran("analyze/watch", analysis=analysis)
    assert again.state.is_completed() and "0 computed" in again.state.message, again.state

    analysis["inputs"]["repeated"]["sequences"] = 6
    config = tmp_path / "grown.yaml"
    config.write_text(json.dumps(analysis))
    changed = ran("reanalyze/after-a-change", analyses=[str(config)])
    assert changed.state.message == "1 of 1 analyses changed, 0 failed"
    unchanged = ran("reanalyze/after-a-change", analyses=[str(config)])
    assert unchanged.state.message == "0 of 1 analyses changed, 0 failed"

    # Two checkpoints, two measures, and what the one had computed before the change.
    sound = ran("verify/nightly", stores=[analysis["store"]])
    assert sound.state.is_completed() and sound.state.message == "stores: 1, rows: 6, faults: 0"
    assert heard.empty()

    pack = next(Path(analysis["store"]).glob("packs/*/weight_norm/*"))
    pack.write_bytes(pack.read_bytes()[:-1])
    rotten = ran("verify/nightly", stores=[analysis["store"]])
    assert rotten.state.is_failed() and "faults: 1" in rotten.state.message
    assert rotten.state.message in heard.get(timeout=60)
