"""Cost of whole presets at one checkpoint, relative to a forward pass with losses alone.

    python tests/benchmarks/preset.py [--json] [--rounds 9] [--threads 2] [--presets detailed ...]

The analyses of the suites (detailed, brief, one_layer, attention_only) on random weights of the
shapes in the table, and this package's presets on the first steps of the runs that they are for.
Beside each, in a fresh order each round: `bare` (bare.py), the Hugging Face forward pass with SDPA
and the cross-entropy of every token, on the input on which the preset records losses, at the
fastest of a few numbers of sequences at a time.

    whole     reading the weights, passes, measures, and committing the rows, by the real worker
    computed  the passes and measures alone

Ratios are medians over rounds of seconds over those of `bare` in the same round; seconds are
medians over rounds. The digest of the checkpoint's files is known, as it is once a run is planned.
The load is the machine's average of the last minute, before and after.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig, PreTrainedConfig

sys.path.insert(0, str(Path(__file__).parents[2]))  # this repository's tests are not installed

from pipeline.analysis.job import Cell, Job, Plan
from pipeline.analysis.plan import plan
from pipeline.analysis.preflight import prepare
from pipeline.analysis.survey import survey
from pipeline.analysis.worker import Worker
from pipeline.config import Analysis
from pipeline.config.suites import FOLDER
from pipeline.config.yaml_files import read_yaml
from pipeline.models.organism_config import OrganismConfig
from pipeline.models.resident import Resident
from pipeline.training import load_training, train
from tests.benchmarks.bare import bare
from tests.benchmarks.measure_costs import PYTHIA_70M

TINY = GPTNeoXConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
    vocab_size=512, max_position_embeddings=1024,
)  # fmt: skip


def attention_only(layers: int) -> OrganismConfig:
    """Return a config of the shape of TransformerLens' attention-only models."""
    return OrganismConfig(
        vocab_size=48262, hidden_size=512, num_hidden_layers=layers, num_attention_heads=8,
        max_position_embeddings=1024,
    )  # fmt: skip


# By analysis of the suites. Those of large models are timed on a smaller one.
SHAPES: dict[str, tuple[PreTrainedConfig, str]] = {
    "detailed": (PYTHIA_70M, "pythia-70m"),
    "brief": (PYTHIA_70M, "pythia-70m, for models from a billion parameters on"),
    "one_layer": (attention_only(1), "attn-only-1l"),
    "attention_only": (attention_only(2), "attn-only-2l"),
}
PACKAGED = ("induction", "modular-addition", "modular-addition-113", "stdlib-text")
AT_A_TIME = (1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14)  # tokens in `bare`, in whole sequences


class Timed(Worker):
    """A worker that keeps the seconds of its parts. spent: by "passes" or name of a group."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.spent: dict[str, float] = {}
        self._time(self._contexts, "records", lambda *_: "passes")
        self._time(self._rows, "_row", lambda checkpoint, loaded, group, *_: group.name)

    def _time(self, owner: object, method: str, name_of: Callable[..., str]) -> None:
        """Let calls of a method keep their seconds, by a name that follows from the arguments."""
        call = getattr(owner, method)

        def timed(*args: Any) -> Any:
            started = time.perf_counter()
            found = call(*args)
            self.spent[name_of(*args)] = time.perf_counter() - started
            return found

        setattr(owner, method, timed)

    def seconds(self, cell: Cell, planned: Plan) -> dict[str, float]:
        """Compute and commit a checkpoint; return the seconds of the whole and of its parts."""
        self.spent = {}
        started = time.perf_counter()
        outcome = self.compute(cell, planned)
        whole = time.perf_counter() - started
        assert set(outcome.computed) == set(cell.groups)  # none was found in the store
        computed = sum(self.spent.values())
        return {"whole": whole, "computed": computed, "reading": outcome.reading, **self.spent}


@dataclass(frozen=True)
class Case:
    """A preset at one checkpoint, prepared."""

    worker: Timed
    cell: Cell
    plan: Plan
    shape: str

    @property
    def tokens(self) -> torch.Tensor:
        """Those on which the preset records losses; of the first input where it records none."""
        of_all = [one for passes in self.worker._contexts._passes.values() for one in passes]
        with_losses = [one for one in of_all if one.losses and one.change is None]
        return torch.from_numpy(
            self.worker._contexts._inputs[(with_losses or of_all)[0].input].tokens
        )

    def bare(self) -> tuple[Callable[[], torch.Tensor], int]:
        """Return the bare forward, and the number of sequences at a time at which it is fastest."""
        config = self.worker._resident.module.config
        resident = Resident(config)
        resident.swap(AutoModelForCausalLM.from_config(config).state_dict())
        resident.module.set_attn_implementation("sdpa")
        sequences, length = self.tokens.shape
        sizes = sorted({min(max(1, tokens // length), sequences) for tokens in AT_A_TIME})
        # The logits of all sequences of a large vocabulary may not fit into memory.
        most = max(1, 2**29 // (length * resident.facts.vocabulary * 4))
        sizes = [size for size in sizes if size <= most] or [most]
        contenders = {size: bare(resident.module, self.tokens, size) for size in sizes}
        contenders[sizes[0]]()  # the first takes longer
        best = min(sizes, key=lambda size: min(seconds(contenders[size]) for _ in range(2)))
        return contenders[best], best


def prepared(name: str, folder: Path, threads: int, config: PreTrainedConfig | None) -> Case:
    """Write a checkpoint and prepare a preset on it. config: in place of the one in `SHAPES`."""
    if name in SHAPES:
        content, (usual, shape) = read_yaml(FOLDER / "analyses.yaml")[name], SHAPES[name]
        shape = "tiny" if config else shape
        AutoModelForCausalLM.from_config(config or usual).save_pretrained(folder / "run" / "step-0")
    else:
        content, shape = read_yaml(FOLDER.parent / f"{name}.yaml"), f"that of the run {name}"
        run = load_training(name).model_copy(update={"output": str(folder / "run"), "steps": 1})
        train(run)
    places = {"checkpoints": str(folder / "run"), "store": str(folder / "store.zarr")}
    analysis = Analysis.model_validate(content | places | {"workers": {"threads": threads}})
    ready = prepare(analysis, survey(analysis))
    worker = Timed(ready.job)
    needs_last = worker.job.needing_reference()
    references = worker.references(ready.checkpoints[-1]) if needs_last else {}
    planned = plan(ready, references)
    most = max(planned.cells, key=lambda cell: len(cell.groups))  # some are at every nth only
    return Case(worker, most, planned, shape)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compare(case: Case, rounds: int) -> dict[str, Any]:
    """Return a row of the table."""
    forward, at_a_time = case.bare()
    case.worker.seconds(case.cell, case.plan)  # the first takes longer
    forward_seconds, parts = [], defaultdict(list)

    def take_bare() -> None:
        forward_seconds.append(seconds(forward))

    def take_preset() -> None:
        for name, spent in case.worker.seconds(case.cell, case.plan).items():
            parts[name].append(spent)

    for _ in range(rounds):
        for take in random.sample([take_bare, take_preset], 2):
            take()
    return {
        "shape": case.shape,
        "tokens": case.tokens.numel(),
        "sequences_at_a_time": at_a_time,
        "bare_seconds": statistics.median(forward_seconds),
        "whole_over_bare": median_ratio(parts["whole"], forward_seconds),
        "computed_over_bare": median_ratio(parts["computed"], forward_seconds),
        "seconds": {name: statistics.median(of) for name, of in parts.items()},
    }


def median_ratio(some: Sequence[float], others: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(some, others, strict=True))


def print_row(name: str, row: dict[str, Any]) -> None:
    print(
        f"| {name} | {row['shape']} | {row['tokens']:,} | {row['bare_seconds']:.3f} "
        f"({row['sequences_at_a_time']}) | {row['whole_over_bare']:.2f} "
        f"| {row['computed_over_bare']:.2f} |\n    "
        + ", ".join(f"{part} {of:.3f}" for part, of in row["seconds"].items()),
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, or one JSON object."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    names = (*SHAPES, *PACKAGED)
    parser.add_argument("--presets", nargs="+", choices=names, default=names)
    parser.add_argument("--tiny", action="store_true", help="tiny models for the suites' analyses")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    found: dict[str, Any] = {"load_before": os.getloadavg()[0], "presets": {}}
    if not options.json:
        print(
            "| preset | model | tokens | bare, seconds (sequences at a time) | whole | computed |"
        )
        print("|---|---|---|---|---|---|")
    for name in options.presets:
        with tempfile.TemporaryDirectory() as folder:
            case = prepared(name, Path(folder), options.threads, TINY if options.tiny else None)
            row = found["presets"][name] = compare(case, options.rounds)
        if not options.json:
            print_row(name, row)
    found["load_after"] = os.getloadavg()[0]
    if "detailed" in found["presets"] and not options.tiny:
        found["pythia_70m_over_losses"] = found["presets"]["detailed"]["whole_over_bare"]
    if options.json:
        print(json.dumps(found))
    else:
        print(f"load of the machine: {found['load_before']:.1f}, {found['load_after']:.1f}")


if __name__ == "__main__":
    main()
