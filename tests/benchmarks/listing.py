"""Seconds to list and to audit a local run of many checkpoints.

    python -m tests.benchmarks.listing --folders 10000 [--json] [--against CHECKOUT] [--rounds 3]

Writes that many folders, each with a small config.json and model.safetensors, and times what
`ontogeny checkpoints` and `ontogeny audit` do after their libraries are imported: in CPU seconds,
which what else runs on the machine moves less, and on the clock. Each round is a new process with
an empty cache; the median over the rounds is shown. With --against, the code of another checkout of
this repository is timed in turns with this one, and must give the same results.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig

HERE = Path(__file__).resolve().parents[2]
SHAPE = LlamaConfig(
    vocab_size=11, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=16, max_position_embeddings=16,
)  # fmt: skip
TIMED = """
import hashlib, json, sys, time
import torch, transformers
from pipeline.auditing import audit
from pipeline.checkpoints import list_run

found = {}
for name, work in (("checkpoints", list_run), ("audit", audit)):
    cpu, clock = time.process_time(), time.perf_counter()
    whole = work(sys.argv[1]).as_json()
    # The keys that have been there from the start, so that older code can be compared.
    result = [whole.get(key) for key in ("checkpoints", "left_out", "faults", "masked")]
    seconds = {"cpu": time.process_time() - cpu, "clock": time.perf_counter() - clock}
    digest = hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()
    found[name] = seconds | {"result": digest}
print(json.dumps(found))
"""

Timing = dict[str, dict[str, float | str]]


def write_run(folder: Path, count: int) -> None:
    """Write a run of a very small model."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(SHAPE)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.config.architectures = ["LlamaForCausalLM"]
    config = model.config.to_json_string()
    for step in range(count):
        checkpoint = folder / f"step-{step * 10}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "config.json").write_text(config)
        state["model.norm.weight"].fill_(step)
        save_file(state, checkpoint / "model.safetensors", {"format": "pt"})


def timed(code: Path, run: Path) -> Timing:
    """Time the code of a checkout of this repository in a process of its own."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "PYTHONPATH": str(code), "ONTOGENY_CACHE": cache}
        done = subprocess.run(
            [sys.executable, "-c", TIMED, str(run)],
            env=environment, cwd=cache, stdout=subprocess.PIPE, check=True,
        )  # fmt: skip
    return json.loads(done.stdout)


def medians(timings: list[Timing]) -> dict[str, dict[str, float]]:
    return {
        name: {
            kind: statistics.median(float(one[name][kind]) for one in timings)
            for kind in ("cpu", "clock")
        }
        for name in timings[0]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folders", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    checkouts = {"this": HERE} | ({"other": options.against.resolve()} if options.against else {})
    timings: dict[str, list[Timing]] = {name: [] for name in checkouts}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        write_run(run, options.folders)
        for _ in range(options.rounds):
            for name, code in checkouts.items():
                timings[name].append(timed(code, run))
    results = {(kind, one[kind]["result"]) for of in timings.values() for one in of for kind in one}
    if len(results) != 2:
        sys.exit(f"the results differ: {sorted(map(str, results))}")
    found = {name: medians(of) for name, of in timings.items()}
    if options.json:
        print(json.dumps({"folders": options.folders, "seconds": found}))
        return
    for kind in ("checkpoints", "audit"):
        for name, of in found.items():
            cpu, clock = of[kind]["cpu"], of[kind]["clock"]
            print(f"{kind:12} {name:6} {cpu:7.2f} s of CPU time, {clock:7.2f} s on the clock")
        if options.against:
            ratio = found["this"][kind]["cpu"] / found["other"][kind]["cpu"]
            print(f"{kind:12} {ratio:.2f} of the CPU time of the other")


if __name__ == "__main__":
    main()
