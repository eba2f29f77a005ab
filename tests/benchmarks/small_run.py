"""Print the time that a small run takes, by phases: six checkpoints of two layers.

Runs `ontogeny analyze` with a Prefect server and Ray of its own, and the same with --serial. Prints
a line for each thing that the run says it begins: seconds since the start of the command, and
processor seconds of all its processes until then. The bar is 30 s in all on an idle machine; the
load printed first says how idle this one is.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

BAR = 30.0  # seconds
STEPS = (0, 1, 10, 100, 1000, 2000)


class ProcessorTime:
    """The processor seconds of a process and of all that it has started, ended ones too."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._seconds: dict[tuple[int, float], float] = {}

    def sample(self) -> float:
        """Look at all processes; return the sum so far."""
        try:
            found = [self._process, *self._process.children(recursive=True)]
        except psutil.NoSuchProcess:
            found = []
        for one in found:
            try:
                times = one.cpu_times()
                self._seconds[one.pid, one.create_time()] = times.user + times.system
            except psutil.NoSuchProcess:
                continue
        return sum(self._seconds.values())


def write_run(folder: Path) -> Path:
    """Write random organisms of two layers and an analysis of them; return its file."""
    import torch

    from pipeline.models.organism import OrganismForCausalLM
    from pipeline.models.organism_config import OrganismConfig

    config = OrganismConfig(
        vocab_size=512, hidden_size=128, num_hidden_layers=2, num_attention_heads=8,
        intermediate_size=256, max_position_embeddings=256,
    )  # fmt: skip
    for step in STEPS:
        torch.manual_seed(step)
        OrganismForCausalLM(config).save_pretrained(folder / "run" / f"step-{step}")
    analysis = {
        "checkpoints": str(folder / "run"),
        "store": str(folder / "store.zarr"),
        "measures": ["head_scores", "composition", "copying", "weight_norm"],
        "workers": {"count": 2},
    }
    (folder / "analysis.yaml").write_text(json.dumps(analysis))
    return folder / "analysis.yaml"


def measure(file: Path, *options: str) -> tuple[float, float]:
    """Carry out the analysis into a new store and print its phases; return wall and CPU seconds."""
    analysis = json.loads(file.read_text())
    analysis["store"] = str(file.parent / f"store-{time.monotonic_ns()}.zarr")
    file.write_text(json.dumps(analysis))
    environment = {**os.environ, "PREFECT_HOME": str(file.parent / "prefect")}
    for name in ("PREFECT_API_URL", "RAY_ADDRESS"):
        environment.pop(name, None)
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "ontogeny", "analyze", str(file), *options],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    used = ProcessorTime(psutil.Process(process.pid))
    sampling = threading.Thread(target=_sample_until_end, args=(process, used), daemon=True)
    sampling.start()
    assert process.stderr is not None
    for line in process.stderr:
        print(f"{time.monotonic() - started:8.1f} {used.sample():8.1f}  {line.rstrip()}")
    if process.wait():
        sys.exit(f"the run failed with exit code {process.returncode}")
    wall = time.monotonic() - started
    sampling.join()
    print(f"{wall:8.1f} {used.sample():8.1f}  ended")
    return wall, used.sample()


def _sample_until_end(process: subprocess.Popen, used: ProcessorTime) -> None:
    while process.poll() is None:
        used.sample()
        time.sleep(0.1)


def main(runs: int = 1) -> None:
    """Print the phases of so many runs, and the shortest one against the bar."""
    load, _, _ = os.getloadavg()
    print(f"{os.cpu_count()} cores, load {load:.1f} before the first run")
    with tempfile.TemporaryDirectory() as folder:
        file = write_run(Path(folder))
        for options, name in ((), "flow"), (("--serial",), "loop"):
            found = []
            for _ in range(runs):
                print(f"{name}:  wall s    CPU s")
                found.append(measure(file, *options))
            wall, used = min(found)
            print(f"{name}: {wall:.1f} s, {used:.1f} CPU seconds; the bar is {BAR:g} s\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="?", type=int, default=1, help="how often each is measured")
    main(parser.parse_args().runs)
