"""CPU time of short commands, over that of importing what they cannot do without.

    python tests/benchmarks/start.py [--rounds N] [--against FOLDER] [--json]

Each command and each bare import runs in a process of its own, in turns, N times. Printed are the
medians of user and system time together, the range, and the ratio to the median of its bare import,
with the limit of each ratio. --against: also run the commands of another checkout, such as one of
before a change, with this environment. The checkpoints and the store are made first, by this
checkout. Exit code 1 if a ratio of this checkout is above its limit.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parents[2]
LIGHT, ARRAYS = "import numpy, typer, rich", "import xarray, zarr"


@dataclass(frozen=True)
class Command:
    """A command, with the bare import that it is compared with, and the limit of the ratio.

    arguments: with {folder} for that of `make_files`. code: the exit code that is expected.
    """

    name: str
    arguments: tuple[str, ...]
    code: int = 0
    peer: str = LIGHT
    limit: float = 3.0


COMMANDS = (
    Command("--help", ("--help",)),
    Command("--version", ("--version",)),
    Command("checkpoints", ("checkpoints", "{folder}/run")),
    Command("checkpoints of a training", ("checkpoints", "{folder}/trained")),
    Command("measures", ("measures",)),
    Command("a wrong path", ("checkpoints", "{folder}/absent"), 2),
    Command("a wrong YAML", ("analyze", "{folder}/misspelt.yaml"), 2),
    Command("the same, --dry-run", ("analyze", "{folder}/misspelt.yaml", "--dry-run"), 2),
    Command("a wrong preset", ("analyze", "--preset", "pythia-71m"), 2),
    Command("query", ("query", "{folder}/run.zarr", "weight_norm/sum_of_squares"), 0, ARRAYS, 1.3),
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--against", type=Path, help="folder of another checkout")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    checkouts = {"": HERE} | ({"before": given.against.resolve()} if given.against else {})
    with tempfile.TemporaryDirectory() as folder:
        make_files(Path(folder))
        times = measure(checkouts, folder, given.rounds)
    rows = [_row(command, times) for command in COMMANDS]
    if given.json:
        print(json.dumps({"rounds": given.rounds, "imports": _imports(times), "commands": rows}))
    else:
        _print(times, rows, bool(given.against))
    sys.exit(any(row["ratio"] > row["limit"] for row in rows))


def make_files(folder: Path) -> None:
    """Write a run, a trained run, a store of two measures, and an analysis with a fault."""
    from pipeline import analyze
    from pipeline.config import Analysis, dump_yaml
    from pipeline.models.organism import OrganismForCausalLM
    from pipeline.models.organism_config import OrganismConfig
    from pipeline.training import Training, train

    model = OrganismForCausalLM(
        OrganismConfig(vocab_size=40, hidden_size=16, num_attention_heads=2)
    )
    for step in (0, 1, 2, 4):
        model.save_pretrained(folder / "run" / f"step-{step}")
    train(
        Training.model_validate(
            {
                "name": "small",
                "output": str(folder / "trained"),
                "task": {"kind": "repeated_substrings", "vocabulary": 16, "context": 16,
                         "shortest": 2, "longest": 4},
                "model": {"hidden_size": 16, "num_attention_heads": 2},
                "optimizer": {"learning_rate": 1e-3},
                "batch_size": 4,
                "steps": 2,
            }
        )
    )  # fmt: skip
    whole: dict[str, Any] = {
        "checkpoints": str(folder / "run"),
        "store": str(folder / "run.zarr"),
        "measures": {"weight_norm": {}, "copying": {}},
    }
    analyze(Analysis.model_validate(whole))
    (folder / "misspelt.yaml").write_text(dump_yaml(whole | {"mesures": ["weight_norm"]}))


def arguments_of(command: Command, folder: str, checkout: Path = HERE) -> list[str]:
    """Return the command line that runs a command of a checkout."""
    given = [argument.format(folder=folder) for argument in command.arguments]
    return [sys.executable, str(checkout / "ontogeny.py"), *given]


def measure(
    checkouts: Mapping[str, Path], folder: str, rounds: int
) -> dict[tuple[str, str], list[float]]:
    """Return the CPU times in seconds by checkout and name; bare imports have the checkout ""."""
    times: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds + 1):  # the first round fills the caches of files and of bytecode
        found = {("", peer): cpu_seconds([sys.executable, "-c", peer]) for peer in (LIGHT, ARRAYS)}
        for name, checkout in checkouts.items():
            for command in COMMANDS:
                line = arguments_of(command, folder, checkout)
                found[name, command.name] = cpu_seconds(line, None if name else command.code)
        for key, seconds in found.items() if number else ():
            times.setdefault(key, []).append(seconds)
    return times


def cpu_seconds(line: Sequence[str], code: int | None = 0) -> float:
    """Run a process; return its user and system time. Raises SystemExit for another exit code."""
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if code is not None and process.returncode != code:
        sys.exit(f"{' '.join(line)}: exit code {process.returncode}\n{said.decode()}")
    return usage.ru_utime + usage.ru_stime


def _row(command: Command, times: Mapping[tuple[str, str], list[float]]) -> dict[str, Any]:
    bare = median(times["", command.peer])
    own, before = times["", command.name], times.get(("before", command.name))
    return {
        "command": command.name,
        **_spread(own),
        "ratio": round(median(own) / bare, 2),
        "limit": command.limit,
        "peer": command.peer,
        **({"before": _spread(before) | {"ratio": round(median(before) / bare, 2)}}
           if before else {}),
    }  # fmt: skip


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    found = {"seconds": median(seconds), "least": min(seconds), "most": max(seconds)}
    return {name: round(value, 3) for name, value in found.items()}


def _imports(times: Mapping[tuple[str, str], list[float]]) -> dict[str, Any]:
    return {peer: _spread(times["", peer]) for peer in (LIGHT, ARRAYS)}


def _print(
    times: Mapping[tuple[str, str], list[float]], rows: Sequence[dict[str, Any]], both: bool
) -> None:
    earlier = f"{'before':>10}{'ratio':>8}" if both else ""
    print(f"{'CPU seconds':<30}{'median':>8}{'range':>16}{'ratio':>8}{'limit':>8}{earlier}")
    for peer, one in _imports(times).items():
        print(f"{peer:<30}{one['seconds']:>8.3f}{_range(one):>16}")
    for row in rows:
        line = f"{row['command']:<30}{row['seconds']:>8.3f}{_range(row):>16}"
        line += f"{row['ratio']:>8.2f}{row['limit']:>8.1f}"
        if both:
            line += f"{row['before']['seconds']:>10.3f}{row['before']['ratio']:>8.2f}"
        print(line)


def _range(one: Mapping[str, Any]) -> str:
    return f"{one['least']:.3f}–{one['most']:.3f}"


if __name__ == "__main__":
    main()
