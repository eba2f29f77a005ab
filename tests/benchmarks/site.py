"""Cost of a site: a run of 600 checkpoints with 384 heads and 12 scores of each.

    python tests/benchmarks/site.py [--steps 600] [--store FOLDER] [--json]

The synthetic run has 24 layers x 16 heads, of which a fifth form a pattern; seven scores of
`head_scores` with their nulls, two of copying and three of ablation; composition of all pairs at 60
steps; and losses of 64 sequences x 512 positions, with trajectories. Seconds of processor time
and the largest size of the process are those of `write_site` alone, in a process of its own; with
`--store` the run is made there once and used again (its stored results are then not new).
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # this repository's tests are not installed

import numpy as np

from pipeline.measures import measure_class
from pipeline.store import Store, Template
from pipeline.store.fingerprint import variant_id
from pipeline.store.reclaim import seal
from pipeline.store.trajectories import publish
from pipeline.store.writer import Writer
from tests.pipeline.query import questions

SIZES = {"layer": 24, "head": 16, "layer_from": 24, "head_from": 16, "layer_to": 24,
         "head_to": 16, "sequence": 64, "position": 512}  # fmt: skip
MEASURES = ("head_scores", "copying", "head_ablation", "token_loss", "composition")
COMPOSITION_STEPS = 60


def templates(sizes: dict[str, int]) -> dict[str, Template]:
    """Return a template of each measure, with the definitions of the measure."""
    made = {}
    for name in MEASURES:
        variables = measure_class(name).variables
        dims = {dim for variable in variables for dim in variable.dims[1:]}
        coordinates = {dim: np.arange(sizes[dim]) for dim in sorted(dims)}
        variant = variant_id(of=name, sizes=sizes)
        about = {"measure": name, "version": 1, "parameters": {},
                 "input": None, "reference_values": None,
                 "definition": measure_class(name).__doc__}  # fmt: skip
        made[name] = Template(name, variant, variables, coordinates, about)
    return made


def make(uri: str, steps: int, sizes: dict[str, int] = SIZES) -> None:
    """Write the store of a run whose heads form at different steps."""
    made, dice = templates(sizes), np.random.default_rng(0)
    shape = (sizes["layer"], sizes["head"])
    middles = np.where(dice.random(shape) < 0.2, dice.uniform(0.1, 0.8, shape), np.inf)
    patterns = dice.integers(0, 5, shape)
    writer = Writer(questions.create(uri, made.values()), 1, list(made.values()))
    every = max(steps // COMPOSITION_STEPS, 1)
    for i in range(steps):
        grown = 0.8 / (1 + np.exp(-(i / steps - middles) * 60))
        rows = []
        for name, template in made.items():
            if name != "composition" or i % every == 0 or i == steps - 1:
                values = dict(_values(template, i / steps, grown, patterns, dice))
                rows.append((name, questions.row(template, 1000 * i), values))
        writer.write(rows)
    seal(Store(uri))
    publish(Store(uri))


def _values(
    template: Template,
    share: float,
    grown: np.ndarray,
    patterns: np.ndarray,
    dice: np.random.Generator,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the noisy values of each variable, share of the way through training."""
    pattern = 0
    for variable in template.variables:
        shape = template.shape(variable)
        noise = 0.02 * dice.standard_normal(shape, dtype=np.float32)
        if template.group == "token_loss":
            noise = noise + 4 - np.float32(2 * share)
        elif variable.dims == ("step", "layer", "head") and "null" not in variable.name:
            noise = np.abs(noise) + np.where(patterns == pattern, grown, 0)
            pattern += 1
        elif template.group == "composition":
            noise = 0.1 + noise + dice.random(shape, dtype=np.float32) ** 8
        yield variable.name, np.asarray(noise, dtype=np.dtype(variable.dtype))


def cost(uri: str, folder: str) -> dict[str, Any]:
    """Write the site in this process and return what it cost."""
    from pipeline.report.site import write_site

    began, wall = time.process_time(), time.perf_counter()
    write_site([uri], folder)
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    pages = [path for path in files if path.suffix == ".html"]
    return {
        "cpu_seconds": round(time.process_time() - began, 1),
        "wall_seconds": round(time.perf_counter() - wall, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "site_mb": round(sum(path.stat().st_size for path in files) / 1e6, 1),
        "largest_page_kb": round(max(path.stat().st_size for path in pages) / 1e3),
        "pages": len(pages),
        "files": len(files),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--store")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--cost", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.cost:
        print(json.dumps(cost(*given.cost)))
        return
    with tempfile.TemporaryDirectory() as folder:
        uri = f"{given.store or folder}/run.zarr"
        if not Path(uri).exists():
            make(uri, given.steps)
        run = [sys.executable, __file__, "--cost", uri, f"{folder}/site"]
        found = json.loads(subprocess.run(run, stdout=subprocess.PIPE, check=True).stdout)
    print(json.dumps(found) if given.json else "\n".join(f"{k}: {v}" for k, v in found.items()))


if __name__ == "__main__":
    main()
