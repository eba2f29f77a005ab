"""Cost of the measures that read only weights, in forward passes.

    python tests/benchmarks/weights_only.py [--json] [--threads 2] [--rounds 5]

A model of the shape of pythia-160m with random weights; one forward pass is one over 2 x 1024
tokens that yields every loss and five diagonals of the attention. Each round times that pass and
then all measures, so that both meet the same machine; the ratio is the median over rounds. Seconds
are of processor time, which what else runs on the machine moves less than the clock on the wall.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig

from pipeline.engine.forward import run
from pipeline.engine.record import Lag, Pass
from pipeline.inputs import Input
from pipeline.measures import registry
from pipeline.measures.base import Measure
from pipeline.models.resident import Resident
from tests.pipeline.measures.measuring import of_weights

PYTHIA_160M = GPTNeoXConfig(
    hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072,
    vocab_size=50304, max_position_embeddings=2048,
)  # fmt: skip


def weights_only() -> list[Measure]:
    """Return all measures that need no input."""
    return [kind() for kind in registry().values() if kind.default_input is None]


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    resident = Resident(PYTHIA_160M)
    resident.swap(AutoModelForCausalLM.from_config(PYTHIA_160M).state_dict())
    tokens = np.random.default_rng(0).integers(0, PYTHIA_160M.vocab_size, (2, 1024))
    probe = Input("probe", "array", tokens)
    wanted = Pass("probe", losses=True, attention=frozenset({Lag(lag) for lag in range(5)}))

    forward: list[float] = []
    measures: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        forward.append(seconds(lambda: run(resident, probe, wanted)))
        for measure in weights_only():
            with torch.inference_mode():
                spent = seconds(lambda m=measure: of_weights(m, resident.weights))
            measures.setdefault(measure.name, []).append(spent)
    ratios = {
        name: statistics.median(m / f for m, f in zip(of, forward, strict=True))
        for name, of in measures.items()
    }
    result = {
        "forward_seconds": statistics.median(forward),
        "ratio_by_measure": ratios,
        "ratio": statistics.median(
            sum(of[i] for of in measures.values()) / f for i, f in enumerate(forward)
        ),
        "threads": options.threads,
        "rounds": options.rounds,
    }
    if options.json:
        print(json.dumps(result, indent=1))
        return
    for name, ratio in ratios.items():
        print(f"{name:24s} {ratio:6.2f} forward passes")
    print(f"{'all together':24s} {result['ratio']:6.2f} forward passes")
    print(f"one forward pass: {result['forward_seconds']:.2f} processor seconds")


if __name__ == "__main__":
    main()
