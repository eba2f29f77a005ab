"""Cost of all measures of grokking, in plain forward passes.

    python tests/benchmarks/grokking.py [--json] [--checkpoints 64] [--threads 1] [--run FOLDER]

p = 113, d_model 128, one layer. For each checkpoint, one after the other and with the same number
of threads: the plain float64 pass over all 12,769 inputs (transformers with SDPA, logits only), and
the analysis of the checkpoint (weights read from disk, one pass, every measure, rows committed).
`share_of_plain_forward`: processor time for the analysis of all of them, with the reference pass
over the last one, over that of as many plain passes. Half of the checkpoints have random weights,
half have their neurons in clusters, whose ranks cost more; with --run they are those of a trained
run, evenly spread in log(1 + step).
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch

from pipeline.analysis.job import Prepared
from pipeline.analysis.plan import plan
from pipeline.analysis.preflight import prepare
from pipeline.analysis.survey import survey
from pipeline.analysis.worker import Worker
from pipeline.config import Analysis
from pipeline.models.organism import OrganismForCausalLM, OrganismLayer
from pipeline.models.organism_config import OrganismConfig

P = 113
KEYS = (5, 14, 24, 41, 56)
MEASURES = (
    "modular_addition", "restricted_loss", "excluded_loss", "logit_waves", "key_frequencies",
    "neuron_clusters", "embedding_plane", "lottery_ticket", "weight_norm",
)  # fmt: skip
TABLE = {"kind": "table", "p": P, "operation": "add", "train_share": 0.3, "split_seed": 0}


def organism(seed: int, clustered: bool) -> OrganismForCausalLM:
    """Make a model of the paper with random weights, or with all neurons at one frequency."""
    torch.manual_seed(seed)
    made = OrganismConfig(
        vocab_size=P + 1,
        hidden_size=128,
        num_attention_heads=4,
        num_hidden_layers=1,
        intermediate_size=512,
        max_position_embeddings=3,
        layer_norm=False,
    )
    model = OrganismForCausalLM(made)
    if clustered:
        _cluster(model)
    return model.eval()


@torch.no_grad()
def _cluster(model: OrganismForCausalLM) -> None:
    """Write waves of the key frequencies into the embedding; each neuron reads one frequency."""
    layer, wave = cast(OrganismLayer, model.model.layers[0]), torch.zeros(P, 128)
    assert layer.mlp is not None
    for i, k in enumerate(KEYS):
        angle = 2 * torch.pi * k * torch.arange(P) / P
        wave[:, 2 * i], wave[:, 2 * i + 1] = angle.cos(), angle.sin()
    model.model.embed_tokens.weight[:P] = wave
    model.model.embed_positions.weight.zero_()
    layer.self_attn.q_proj.weight.zero_()
    layer.self_attn.v_proj.weight.copy_(torch.eye(128))
    layer.self_attn.o_proj.weight.copy_(torch.eye(128))
    reading = torch.zeros(512, 128)
    for neuron in range(512):
        pair = 2 * (neuron % len(KEYS))
        reading[neuron, pair : pair + 2] = torch.randn(2)
    layer.mlp.up_proj.weight.copy_(reading)


def made_run(folder: Path, count: int) -> str:
    """Write a run of `count` checkpoints."""
    for step in range(count):
        organism(step, clustered=2 * step >= count).save_pretrained(folder / f"step-{step}")
    return str(folder)


def prepared(run: str, store: Path, count: int, threads: int) -> Prepared:
    """Prepare the analysis of `count` checkpoints of a run."""
    analysis = Analysis.model_validate(
        {
            "checkpoints": run,
            "store": str(store),
            "select": {"log_spaced": count},
            "inputs": {"table": TABLE},
            "measures": list(MEASURES),
            "workers": {"threads": threads},
        }
    )
    return prepare(analysis, survey(analysis))


def share(run: Prepared) -> float:
    """Return the processor time of the analysis relative to plain passes, measured in turns."""
    worker, references = Worker(run.job), {}
    spent = seconds(lambda: references.update(worker.references(run.checkpoints[-1])))
    planned, plain = plan(run, references), 0.0
    for cell in planned.cells:
        plain += plain_pass(cell.checkpoint.step)
        spent += seconds(lambda cell=cell: worker.compute(cell, planned))
    return spent / plain


def plain_pass(seed: int) -> float:
    """Return the processor time of a plain pass over the table, after a short warm-up."""
    tokens = torch.cartesian_prod(torch.arange(P), torch.arange(P))
    tokens = torch.cat([tokens, torch.full((P * P, 1), P)], dim=1)
    model = organism(seed, clustered=False).double()
    with torch.inference_mode():
        model(tokens[:P])
        return seconds(lambda: model(tokens))


def seconds(work: Callable[[], object]) -> float:
    """Return processor time, which other load on the machine affects less than elapsed time."""
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    """Run the benchmark and print its one number."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--checkpoints", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--run", help="a folder of checkpoints at p = 113")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        run = given.run or made_run(folder / "run", given.checkpoints)
        found = share(prepared(run, folder / "store.zarr", given.checkpoints, given.threads))
    if given.json:
        print(json.dumps({"share_of_plain_forward": round(found, 4)}))
    else:
        print(f"{given.checkpoints} checkpoints: {found:.2f} of a plain forward pass each")


if __name__ == "__main__":
    main()
