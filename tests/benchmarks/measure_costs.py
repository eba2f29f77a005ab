"""Cost of each measure, in forward passes over its input: `pipeline/measures/costs.yaml`.

    python tests/benchmarks/measure_costs.py [--write] [--threads 2] [--rounds 3] [NAME ...]

For each measure with its default parameters: the time that it takes at one checkpoint if it is
computed alone (all its passes, and what it makes of them), over that of one bare pass over the same
input that yields every loss. A model of the shape of pythia-70m with random weights; for measures
of weights alone the bare pass is one over 2 x 1024 tokens, for those of modular arithmetic one over
the whole table of p = 113, for that of permutations one over all pairs of the 120 of five elements.
Measures that change heads one by one change one in each of the six
layers, six of 48 in all. Measures that share passes cost less together.
Medians over rounds of processor time, which what else runs on the machine moves less than the clock
on the wall.

--write keeps what it prints for `ontogeny measures`; with names, these measures are timed anew.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import yaml
from transformers import AutoModelForCausalLM, GPTNeoXConfig, PreTrainedConfig

from pipeline.analysis.inputs import STANDARD_INPUTS, make_input
from pipeline.config import TableInput
from pipeline.engine.changes import run_changed
from pipeline.engine.forward import run
from pipeline.engine.record import Pass, merge
from pipeline.inputs import Input
from pipeline.measures import COSTS, apply, registry
from pipeline.measures.base import Context, Measure, Setting
from pipeline.measures.permutation_characters import PermutationCharacters
from pipeline.models.organism_config import OrganismConfig
from pipeline.models.resident import Resident

PYTHIA_70M = GPTNeoXConfig(
    hidden_size=512, num_hidden_layers=6, num_attention_heads=8, intermediate_size=2048,
    vocab_size=50304, max_position_embeddings=2048,
)  # fmt: skip
GROKKING = OrganismConfig(
    vocab_size=114, hidden_size=128, num_attention_heads=4, num_hidden_layers=1,
    intermediate_size=512, max_position_embeddings=3, layer_norm=False,
)  # fmt: skip
PERMUTATIONS = OrganismConfig(**{**GROKKING.to_diff_dict(), "vocab_size": 121})
TABLES = {GROKKING.vocab_size: (113, "add"), PERMUTATIONS.vocab_size: (120, "compose")}
ABOUT = "# Written by tests/benchmarks/measure_costs.py, which says what the numbers mean."
FULL_STOP = 15
FEWER = {"sequences": 8}  # than by default: what is compared reads the same ones


def with_random_weights(config: PreTrainedConfig) -> Resident:
    torch.manual_seed(0)
    resident = Resident(config)
    resident.swap(AutoModelForCausalLM.from_config(config).state_dict())
    return resident


def inputs_for(resident: Resident) -> dict[str, Input]:
    """Make an input for each default input, with random ids in place of text."""
    facts, rng = resident.facts, np.random.default_rng(0)
    if facts.vocabulary in TABLES:
        p, operation = TABLES[facts.vocabulary]
        spec = TableInput(p=p, operation=operation, train_share=0.3, split_seed=0)
        return {"table": make_input("table", spec, "", facts)}
    made = {
        name: make_input(name, STANDARD_INPUTS[name].model_copy(update=FEWER), "", facts)
        for name in ("repeated", "shuffled", "matches")
    }
    for name in ("text", "other_text", "corpus"):
        made[name] = Input(name, "array", rng.integers(0, facts.vocabulary, (1, 512)))
    made["weights"] = Input("weights", "array", rng.integers(0, facts.vocabulary, (2, 1024)))
    return made | _prompts(rng, facts.vocabulary) | _natural_matches(rng, facts.vocabulary)


def _prompts(rng: np.random.Generator, vocabulary: int) -> dict[str, Input]:
    tokens, names = rng.integers(0, vocabulary, (8, 16)), rng.integers(0, vocabulary, (2, 8))
    arrays = {
        "indirect_object": names[0],
        "subject": names[1],
        "indirect_object_at": np.full(8, 2),
        "subject_at": np.tile([4, 10], (8, 1)),
    }
    pair = {"indirect_object": False, "indirect_object_corrupted": True}
    return {
        name: Input(name, "indirect_object", tokens, arrays, {"corrupted": corrupted})
        for name, corrupted in pair.items()
    }


def _natural_matches(rng: np.random.Generator, vocabulary: int) -> dict[str, Input]:
    replaced = {"": "nothing", "_earlier": "earlier", "_last": "last"}
    tokens, probe = rng.integers(0, vocabulary, (4, 128)), {"probe": np.full(4, 100)}
    return {
        f"natural_matches{end}": Input(
            f"natural_matches{end}", "natural_matches", tokens, probe, {"replaced": tokens_of}
        )
        for end, tokens_of in replaced.items()
    }


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def computed(measure: Measure, resident: Resident, inputs: dict[str, Input]) -> None:
    """Compute one measure at one checkpoint, as a worker does."""
    others = {name: inputs[name] for name in measure.other_inputs}
    setting = Setting(resident.facts, inputs.get(measure.default_input or ""), others)
    apply.check(measure, setting)
    passes = measure.passes(setting)
    wanted = merge(passes)
    with torch.inference_mode():
        records = {p.key: run(resident, inputs[p.input], p) for p in wanted if p.change is None}
        changed = [p for p in wanted if p.change is not None]
        records |= run_changed(resident, inputs, changed, records)
        given = tuple(records[p.key] for p in passes)
        context = Context(setting, resident.weights, given)
        if measure.reference_from:
            context = replace(context, stored_reference=measure.reference(context))
        apply.compute(measure, context)


def model_for(kind: type[Measure]) -> str:
    if kind is PermutationCharacters:
        return "permutations"
    return "table" if kind.default_input == "table" else "text"


def cost_of(
    kind: type[Measure], residents: dict[str, tuple[Resident, dict[str, Input]]], rounds: int
) -> float:
    resident, inputs = residents[model_for(kind)]
    of_each_layer = tuple((layer, 0) for layer in range(resident.facts.n_layers))
    told = {"heads": of_each_layer, "token_ids": (FULL_STOP,)}
    measure = kind(**{name: told[name] for name in told.keys() & kind.model_fields.keys()})
    read = kind.default_input or "weights"
    whole_table = read == "table"
    bare = Pass(read, losses=not whole_table, logit_positions=(-1,) if whole_table else ())
    ratios = [
        seconds(lambda: computed(measure, resident, inputs))
        / seconds(lambda: run(resident, inputs[read], bare))
        for _ in range(rounds)
    ]
    return statistics.median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    residents = {
        name: (resident, inputs_for(resident))
        for name, config in (
            ("text", PYTHIA_70M),
            ("table", GROKKING),
            ("permutations", PERMUTATIONS),
        )
        for resident in [with_random_weights(config)]
    }
    for resident, inputs in residents.values():  # the first pass of a model takes longer
        name = "table" if "table" in inputs else "weights"
        run(resident, inputs[name], Pass(name, logit_positions=(-1,)))
    costs: dict[str, float] = yaml.safe_load(COSTS.read_text()) if options.names else {}
    for name, kind in registry().items():
        if not options.names or name in options.names:
            costs[name] = float(f"{cost_of(kind, residents, options.rounds):.2g}")
            print(f"{name:28s} {costs[name]:8.2g} forward passes", flush=True)
            if options.write:
                COSTS.write_text(f"{ABOUT}\n{yaml.safe_dump(costs)}")


if __name__ == "__main__":
    main()
