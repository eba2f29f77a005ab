"""Attention of a head on a few short sequences, at the steps at which it was stored."""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float

from pipeline.errors import InputError
from pipeline.query.token_texts import token_texts
from pipeline.report.downsample import kept_indices
from pipeline.report.site.arrays import coloured
from pipeline.report.site.heads import Head
from pipeline.report.site.run_data import Run
from pipeline.report.site.specs import Figure, figure, source

# Steps that are drawn: few where many heads have a page, so that the site stays small.
LEAST_STEPS, MOST_STEPS = 6, 30
_MOST_CELLS = 12_000_000  # of all heads
_DIMS = ("sequence", "layer", "head", "query", "key")


@dataclass(frozen=True)
class Patterns:
    """The attention of all heads at the steps that are drawn, and the texts of the tokens."""

    group: str
    steps: list[int]
    stored: int
    layers: list[int]
    heads: list[int]
    values: Float[np.ndarray, "step sequence layer head query key"]
    tokens: list[list[str]]
    definition: str


def patterns_of(run: Run) -> list[Patterns]:
    """Return the stored attention patterns of a run, by input."""
    found = []
    for group, rows in run.groups.get("attention_patterns", {}).items():
        if "attention" not in rows or set(rows["attention"].dims) != {"step", *_DIMS}:
            continue
        cells = rows["attention"].size // rows.sizes["step"]
        most = min(max(_MOST_CELLS // cells, LEAST_STEPS), MOST_STEPS)
        kept = kept_indices(rows["step"].values, most)
        values = rows["attention"].isel(step=kept).transpose("step", *_DIMS).load()
        if not np.isfinite(values.values).any():
            some = " at the checkpoints that would be drawn" * (len(kept) < rows.sizes["step"])
            run.leave_out(f"{group}/attention", f"undefined{some}")
            continue
        found.append(
            Patterns(
                group, values["step"].values.tolist(), rows.sizes["step"],
                values["layer"].values.tolist(), values["head"].values.tolist(),
                values.values, _tokens(run, rows), str(values.attrs.get("definition", "")),
            )
        )  # fmt: skip
    return found


def attention_figure(run: Run, of: Patterns, head: Head) -> Figure | None:
    """Return the attention of a head; None where it has none."""
    if head.layer not in of.layers or head.head not in of.heads:
        return None
    values = of.values[:, :, of.layers.index(head.layer), of.heads.index(head.head)]
    if not np.isfinite(values).any():
        return None
    # (step, sequence, query, key): a text for each sequence.
    texts = [
        {"name": f"sequence {i}", "tokens": tokens,
         "frames": {"steps": of.steps, "total": len(run.steps),
                    "values": coloured(values[:, i], 0.0, 1.0)}}
        for i, tokens in enumerate(of.tokens)
    ]  # fmt: skip
    spec = {"kind": "attention", "texts": texts}
    fewer = run.said_drawn(len(of.steps), of.stored)
    note = f"{of.definition} Colours are in 254 steps{fewer and '; ' + fewer}."
    given = of.group.partition(".")[2]
    title = f"Attention on input {given}" if given else "Attention on text"
    return figure(
        f"attention{'-' + given if given else ''}", title, note, spec, f"{run.slug}-{head.name}",
        source(run.uri, of.group, "attention", layer=head.layer, head=head.head),
    )  # fmt: skip


def _tokens(run: Run, rows: xr.Dataset) -> list[list[str]]:
    """Return the text of each token of the sequences; their positions where it is unknown."""
    length, sequences = rows.sizes["key"], rows["sequence"].values.tolist()
    try:
        texts = token_texts(run.uri, rows.attrs.get("input") or {})
    except (InputError, KeyError):
        return [[str(place) for place in range(length)] for _ in sequences]
    return [texts[sequence][:length] for sequence in sequences]
