"""The mosaic of all heads over training: by each score, by label, and by onset."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Integer

from pipeline.findings.number_format import head_name
from pipeline.report.site.arrays import Json, coloured, exact
from pipeline.report.site.heads import Head
from pipeline.report.site.run_data import Run
from pipeline.report.site.scores import Score
from pipeline.report.site.specs import Figure, figure, source

MOST_EXACT = 40_000  # numbers beyond which only colours are kept


def mosaic_figure(run: Run, heads: list[Head], scores: Sequence[Score]) -> Figure | None:
    """Return the mosaic by the scores over the same steps as the first; None without scores.

    Scores at other steps (ablation at a few checkpoints) are on the pages of the heads.
    """
    ordered = list(scores)
    if not ordered:
        return None
    first = ordered[0]
    same = [one for one in ordered if np.array_equal(one.steps, first.steps)]
    frames = {
        "steps": first.steps.tolist(), "total": len(run.steps),
        "scores": [*(_of_score(heads, one) for one in same), *_of_labels(heads, first.steps)],
    }  # fmt: skip
    note = "A cell opens its head; the last layer is at the top."
    if first.values.size > MOST_EXACT:
        note += " Colours are in 254 steps; exact numbers are on the pages of the heads."
    if others := [one.title for one in ordered if one not in same]:
        note += f" Stored at other steps, and on the pages of the heads: {', '.join(others)}."
    spec = {"kind": "mosaic", **_grid(heads), "frames": frames}
    return figure(
        "mosaic", "All heads", note, spec, run.slug, source(run.uri, first.group, first.variable)
    )


def _of_score(heads: list[Head], score: Score) -> Json:
    layers, columns = _sides(heads)
    values = np.full((len(score.steps), len(layers), len(columns)), np.nan, score.values.dtype)
    rows = [layers.index(layer) for layer in score.layers]
    values[:, np.array(rows)[:, None], [columns.index(head) for head in score.heads]] = score.values
    low, high = score.limits
    content = exact(values) if values.size <= MOST_EXACT else coloured(values, low, high)
    shown = [min(low, -high), max(high, -low)] if low < 0 else [0.0, high]
    name = score.variable if score.group == "head_scores" else score.address
    return {"name": name, "label": score.title, "values": content, "domain": shown}


def _of_labels(heads: list[Head], steps: Integer[np.ndarray, " step"]) -> list[Json]:
    """Return two further scores: whether a head has a label, and since which step it has one."""
    layers, columns = _sides(heads)
    has = np.zeros((len(steps), len(layers), len(columns)), np.float32)
    since: Float[np.ndarray, "step layer head"] = np.full(has.shape, np.nan, np.float32)
    for one in heads:
        at = layers.index(one.layer), columns.index(one.head)
        for onset in one.onsets.values():
            until = np.inf if onset.until is None else onset.until
            within = (steps >= onset.step) & (steps <= until)
            has[within, *at] = 1
            since[steps >= onset.step, *at] = np.fmin(since[steps >= onset.step, *at], onset.step)
    if not has.any():
        return []
    last = float(np.nanmax(since))
    return [
        {"name": "label", "label": "has a label", "values": coloured(has, 0, 1), "domain": [0, 1]},
        {"name": "onset", "label": "onset of its label (step)", "domain": [0, last],
         "values": exact(since) if since.size <= MOST_EXACT else coloured(since, 0, last)},
    ]  # fmt: skip


def _grid(heads: list[Head]) -> Json:
    layers, columns = _sides(heads)
    there = {(one.layer, one.head): one.href for one in heads}
    places = [(layer, head) for layer in layers for head in columns]
    return {
        "rows": [f"L{layer}" for layer in layers], "columns": [f"H{head}" for head in columns],
        "hrefs": [there.get(place, "") for place in places],
        "names": [head_name(*place) for place in places],
    }  # fmt: skip


def _sides(heads: list[Head]) -> tuple[list[int], list[int]]:
    """Return the layers, the last first, and the heads."""
    layers = sorted({one.layer for one in heads}, reverse=True)
    return layers, sorted({one.head for one in heads})
