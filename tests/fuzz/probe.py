"""Read a run with everything that reads runs, and compare what its checkpoints yield."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline import InputError, analyze, audit, list_run, load_analysis, open_run
from pipeline.analysis.examination import resolve
from pipeline.analysis.survey import survey
from pipeline.checkpoints.fetch import Copies
from pipeline.checkpoints.metadata import metadata_folder
from pipeline.checkpoints.places import listed_folder
from pipeline.errors import CheckpointError
from pipeline.models.resident import Resident
from pipeline.models.weights import read_weights
from pipeline.outside import reading

INPUTS: tuple[Mapping[str, Any], ...] = (
    {"kind": "array", "path": "ids.npy", "sequences": 4, "length": 8},
    {"kind": "array", "path": "ids.bin", "sequences": 4, "length": 8, "dtype": "uint16"},
    {"kind": "text", "path": "text.txt", "sequences": 2, "length": 8},
)


ANALYSIS = """checkpoints: {run}
store: store.zarr
inputs:
  text: {given}
measures:
  token_loss:
    early_token: 2
    late_token: 6
  weight_norm:
workers:
  threads: 1
"""


def write_analysis(run: Path, given: Mapping[str, Any]) -> Path:
    """Write an analysis of a run on one of `INPUTS` beside it, and return the file."""
    file = run.parent / "analysis.yaml"
    file.write_text(ANALYSIS.format(run=run.name, given=json.dumps(given)))
    return file


def losses(file: Path, whole: bool = False) -> dict[int, float]:
    """Return the mean loss at each step that can be computed, without or with a whole analysis."""
    analysis = load_analysis(file)
    if whole:
        summary = analyze(analysis)
        mean = open_run(analysis.store)["token_loss"]["mean"].to_series().to_dict()
        return {step: float(mean[step]) for step in summary.computed}
    prepared = resolve(analysis, survey(analysis))
    resident = Resident(metadata_folder(listed_folder(prepared.job.architecture)))
    tokens = torch.from_numpy(prepared.inputs["text"].tokens)
    found, copies = {}, Copies(largest=resident.most_bytes)
    for checkpoint in prepared.checkpoints:
        try:
            with copies.of(checkpoint) as copy:
                weights = copy.read(read_weights)
                with reading(checkpoint.uri):
                    resident.used(weights, checkpoint.uri, copy.config)
                    resident.swap(weights, checkpoint.uri)
        except CheckpointError:
            continue
        with torch.inference_mode():
            logits = resident.module(tokens).logits[:, :-1].flatten(0, 1)
            loss = torch.nn.functional.cross_entropy(logits, tokens[:, 1:].flatten())
        found[checkpoint.step] = float(loss)
    return found


def read_all(run: Path, file: Path, whole: bool) -> dict[int, float] | None:
    """List, audit and compute a run; return its losses by step, None where it is refused.

    A refusal of one kind of reading must not keep the others from being tried.
    """
    found = None
    for read in (
        lambda: list_run(str(run)),
        lambda: audit(str(run)),
        lambda: audit(str(run), deep=True),
        lambda: losses(file, whole),
    ):
        try:
            found = read()
        except InputError:
            found = None
    return found if isinstance(found, dict) else None
