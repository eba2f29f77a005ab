"""Heads of a trained model, chosen by their scores at its last checkpoint."""

import xarray as xr

from pipeline.experiments.runs import Result

Head = tuple[int, int]

FORMED = 0.3  # an induction head has at least this score


def strongest_head(scores: xr.DataArray) -> Head:
    """Return the head (layer, head) with the largest score at the last step."""
    return ranked_heads(scores)[0]


def ranked_heads(scores: xr.DataArray) -> list[Head]:
    """Return all heads (layer, head), the one with the largest score at the last step first."""
    last = scores.isel(step=-1).stack(of=("layer", "head")).load()
    ordered = last.sortby(last, ascending=False)["of"].values
    return [(int(layer), int(head)) for layer, head in ordered]


def heads_above(scores: xr.DataArray, threshold: float) -> list[Head]:
    """Return the heads with at least this score at the last step, at least one: the strongest."""
    number = int((scores.isel(step=-1) >= threshold).sum())
    return ranked_heads(scores)[: max(1, number)]


def induction_heads(result: Result, most: int) -> list[Head]:
    """Return the induction heads of a run, at most `most`, the strongest first; at least one.

    Those with an induction score of at least `FORMED` at the last step; if none has, the strongest.
    """
    return heads_above(result.group("head_scores").induction, FORMED)[:most]
