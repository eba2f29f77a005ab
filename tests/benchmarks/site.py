"""Cost of a site: a run of 600 checkpoints with 384 heads and 12 scores of each.

    python tests/benchmarks/site.py [--steps 600] [--store FOLDER] [--json]

The synthetic run has 24 layers x 16 heads, of which a fifth form a pattern; seven scores of
`head_scores` with their nulls, two of copying and three of ablation; composition of all pairs at 60
steps; attention on two sequences of 48 tokens at 6 steps; and losses of 64 sequences x 512
positions, with trajectories. Four bars: seconds of
processor time and the largest memory of a process that does nothing but write the site, the size of
the site, and the seconds until headless Chromium shows the first figure of a page over file:// (the
slower of two pages, each the median of three new browser contexts; null without Chromium). With
`--store` the run is made there once and used again, without the results that are stored beside it.
"""

import argparse
import json
import resource
import shutil
import statistics
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
from tests.pipeline.report.site.browser import CHROMIUM

SIZES = {"layer": 24, "head": 16, "layer_from": 24, "head_from": 16, "layer_to": 24,
         "head_to": 16, "sequence": 64, "position": 512}  # fmt: skip
ATTENTION = {"sequence": 2, "query": 48, "key": 48}
MEASURES = ("head_scores", "copying", "head_ablation", "token_loss", "composition",
            "attention_patterns")  # fmt: skip
FEWER_STEPS = {"composition": 60, "attention_patterns": 6}
# The most that each may be at 600 checkpoints.
BARS = {"cpu_seconds": 180, "peak_mb": 1500, "site_mb": 60, "first_figure_seconds": 2}
PAGES = ("run/overview.html", "run/heads.html")
OPENINGS = 3  # of each page
DRAWN = ".figure .plot :is(svg, canvas, .grid)"


def templates(sizes: dict[str, int]) -> dict[str, Template]:
    """Return a template of each measure, with the definitions of the measure."""
    made = {}
    for name in MEASURES:
        variables = measure_class(name).variables
        dims = {dim for variable in variables for dim in variable.dims[1:]}
        own = sizes | ATTENTION if name == "attention_patterns" else sizes
        coordinates = {dim: np.arange(own[dim]) for dim in sorted(dims)}
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
    every = {name: max(steps // count, 1) for name, count in FEWER_STEPS.items()}
    for i in range(steps):
        grown = 0.8 / (1 + np.exp(-(i / steps - middles) * 60))
        rows = []
        for name, template in made.items():
            if i % every.get(name, 1) == 0 or i == steps - 1:
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
        elif template.group == "attention_patterns":
            noise = _attention(shape, dice)
        elif template.group == "composition":
            noise = 0.1 + noise + dice.random(shape, dtype=np.float32) ** 8
        elif variable.name == "uniform_null":
            noise = np.asarray(0.02)  # of one input, the same at all checkpoints
        yield variable.name, np.asarray(noise, dtype=np.dtype(variable.dtype))


def _attention(shape: tuple[int, ...], dice: np.random.Generator) -> np.ndarray:
    """Return causal attention that is concentrated on a few keys, as that of models is."""
    weights = np.tril(np.exp(3 * dice.standard_normal(shape, dtype=np.float32)))
    return weights / weights.sum(axis=-1, keepdims=True)


def cost(uri: str, folder: str) -> dict[str, Any]:
    """Write the site in this process and return what it cost."""
    from pipeline.report import write_report

    began, wall = time.process_time(), time.perf_counter()
    write_report([uri], folder)
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


def first_figures(site: Path) -> dict[str, float] | None:
    """Return the seconds from opening each page to its first figure; None without a browser."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if CHROMIUM is None:
        return None
    found = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name in PAGES:
            times = []
            for _ in range(OPENINGS):
                page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
                began = time.perf_counter()
                page.goto((site / name).as_uri(), wait_until="commit")
                page.wait_for_selector(DRAWN)
                times.append(time.perf_counter() - began)
                page.context.close()
            found[name] = round(statistics.median(times), 2)
        browser.close()
    return found


def measured(uri: str, folder: str) -> dict[str, Any]:
    """Return what the site of a run costs, written by a process of its own."""
    found = json.loads(_in_process("--cost", uri, f"{folder}/site"))
    times = first_figures(Path(folder, "site"))
    slowest = None if times is None else max(times.values())
    return found | {"first_figure_seconds": slowest, "first_figure_by_page": times}


def _in_process(*arguments: str) -> bytes:
    """Run a part of this script in a process of its own; return what it prints.

    A process counts the memory of the one that started it: that must never be large.
    """
    run = [sys.executable, __file__, *arguments]
    return subprocess.run(run, stdout=subprocess.PIPE, check=True).stdout


def said(found: dict[str, Any]) -> str:
    """Return the figures as text, each bar beside the one that it is for."""
    bars = {name: f" (at most {bar:,})" for name, bar in BARS.items()}
    return "\n".join(f"{name}: {value}{bars.get(name, '')}" for name, value in found.items())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--store")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--cost", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--make", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.cost:
        print(json.dumps(cost(*given.cost)))
        return
    if given.make:
        make(given.make, given.steps)
        return
    with tempfile.TemporaryDirectory() as folder:
        uri = f"{given.store or folder}/run.zarr"
        if not Path(uri).exists():
            _in_process("--make", uri, "--steps", str(given.steps))
        if given.store:
            uri = shutil.copytree(uri, f"{folder}/run.zarr")
        found = measured(uri, folder)
    print(json.dumps(found | {"bars": BARS}) if given.json else said(found))


if __name__ == "__main__":
    main()
