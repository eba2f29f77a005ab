"""The mosaic of all heads over training: by each score, by label, and by onset."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Integer

from pipeline.findings.heads import Heads
from pipeline.findings.number_format import in_words
from pipeline.measures.head_patterns import has_pattern
from pipeline.models.head_names import head_name
from pipeline.report.site.arrays import LEVELS, Json, coloured, exact
from pipeline.report.site.heads import PATTERNS, Head, main_scores
from pipeline.report.site.run_data import Run
from pipeline.report.site.scores import Score
from pipeline.report.site.specs import Figure, figure, role_of, source

MOST_EXACT = 40_000  # numbers beyond which only colours are kept
MOST_FRAMES = 600


def mosaic_figure(run: Run, heads: list[Head], scores: Sequence[Score]) -> Figure | None:
    """Return the mosaic by the scores over the same steps as the first; None without scores.

    Scores at other steps (ablation at a few checkpoints) are on the pages of the heads.
    """
    if not (ordered := list(scores)):
        return None
    first = ordered[0]
    same = [one for one in ordered if np.array_equal(one.steps, first.steps)]
    note = "A cell opens its head; the last layer is at the top."
    if others := [one.title for one in ordered if one not in same]:
        note += f" Stored at other steps, and on the pages of the heads: {', '.join(others)}."
    spec = mosaic_spec(run, heads, same, MOST_FRAMES)
    note += said_about(spec)
    return figure(
        "mosaic", "All heads", note, spec, run.slug, source(run.uri, first.group, first.variable)
    )


def mosaic_spec(run: Run, heads: list[Head], scores: Sequence[Score], at_most: int) -> Json:
    """Return the specification of the mosaic by scores of the same steps, of which it has some.

    at_most: steps, evenly spaced with the first and the last; `of` says how many are stored.
    """
    kept = _even(len(scores[0].steps), at_most)
    drawn = [replace(one, steps=one.steps[kept], values=one.values[kept]) for one in scores]
    steps = drawn[0].steps
    frames = {
        "steps": steps.tolist(), "total": len(run.steps),
        "scores": [_of_score(heads, one) for one in drawn],
    }  # fmt: skip
    fewer = {"of": len(run.steps)} if len(steps) < len(run.steps) else {}
    return {"kind": "mosaic", **_grid(heads), "frames": frames, **_labels(run, heads, steps),
            **fewer}  # fmt: skip


def said_about(spec: Json) -> str:
    """Return what a mosaic lacks against the store, in sentences that begin with a space."""
    steps, scores = spec["frames"]["steps"], spec["frames"]["scores"]
    said = ""
    if any("u8" in one["values"] for one in scores if isinstance(one["values"], dict)):
        said += " Colours are in 254 steps; exact numbers are on the pages of the heads."
    if "of" in spec:
        said += f" {len(steps):,} of {spec['of']:,} checkpoints are shown."
    return said


def _even(count: int, at_most: int) -> Integer[np.ndarray, " kept"]:
    """Return places from 0 to count - 1, evenly spaced, with both ends."""
    return np.unique(np.linspace(0, count - 1, min(count, at_most)).round().astype(int))


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


def _labels(run: Run, heads: list[Head], steps: Integer[np.ndarray, " step"]) -> Json:
    """Return the label of each head at each step, and the step at which it formed.

    The label is the pattern that exceeds its null most, of those that a head has by the rule of
    `pipeline.measures.head_patterns`. Nothing where no head has one.
    """
    found = main_scores(run)
    if found is None:
        return {}
    names = [name for name in PATTERNS if found[1].excess(name) is not None]
    layers, columns = _sides(heads)
    codes = _codes(found[1], names, steps, layers, columns)
    onsets = np.full((len(layers), len(columns)), np.nan)
    for one in heads:
        if one.onset is not None:
            onsets[layers.index(one.layer), columns.index(one.head)] = one.onset.step
    if not np.isfinite(codes).any() and not np.isfinite(onsets).any():
        return {}
    labels = {
        "values": coloured(codes, 0, LEVELS),  # a byte is a code
        "names": [in_words(name) for name in names], "roles": [role_of(name) for name in names],
    }  # fmt: skip
    return {"labels": labels, "onsets": exact(onsets)}


def _codes(
    heads: Heads, names: list[str], steps: Integer[np.ndarray, " step"],
    layers: list[int], columns: list[int],
) -> Float[np.ndarray, "step layer head"]:  # fmt: skip
    """Return the place of each head's label in names, at each step; NaN without one."""
    best = np.full((len(steps), len(layers), len(columns)), -np.inf)
    codes = np.full(best.shape, np.nan)
    for code, name in enumerate(names):
        excess = heads.excess(name)
        assert excess is not None  # as names are those with a null
        at = excess.reindex(step=steps, layer=layers, head=columns)
        values = at.transpose("step", "layer", "head").values.astype(np.float64)
        higher = (has_pattern(values, heads.threshold) == 1) & (values > best)
        codes[higher], best[higher] = code, values[higher]
    return codes


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
