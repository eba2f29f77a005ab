"""The series of a run whose transitions are compared: losses, and those of its strongest heads."""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from pipeline.measures.head_patterns import excess_of, has_pattern, threshold_of
from pipeline.models.head_names import head_name

PATTERNS = {"induction": "induction head", "previous_token": "previous-token head"}
LOSSES = {"mean": "mean loss", "in_context_score": "in-context score"}
_NOT_STORED = "it is not stored"

Head = tuple[int, int]


def named_series(run: xr.DataTree) -> tuple[dict[str, xr.DataArray], dict[str, str]]:
    """Return series over "step" by what they are, and the reasons of those that are missing.

    Mean loss and in-context score; the scores of the induction head and of the previous-token head
    that exceed their nulls most at the last step, if by the threshold of a pattern; and the
    K-composition of both, over that of random matrices.
    """
    found: dict[str, xr.DataArray] = {}
    missing: dict[str, str] = {}
    groups = {str(name): node.to_dataset() for name, node in run.children.items()}
    for name, words in LOSSES.items():
        losses = groups.get("token_loss", xr.Dataset())
        if name in losses and losses[name].notnull().any():
            found[words] = losses[name].reset_coords(drop=True)
        else:
            missing[words] = _NOT_STORED
    heads: dict[str, Head] = {}
    for pattern, words in PATTERNS.items():
        one = _strongest(groups, pattern)
        if isinstance(one, str):
            missing[words] = one
            continue
        heads[pattern] = one
        series = groups["head_scores"][pattern].sel(layer=one[0], head=one[1])
        found[f"{words} {head_name(*one)}"] = series.reset_coords(drop=True)
    pair = [heads.get(pattern) for pattern in ("previous_token", "induction")]
    composed = _composition(groups.get("composition"), *pair)
    if isinstance(composed, str):
        missing["K-composition"] = composed
    else:
        found[f"K-composition {' to '.join(head_name(*one) for one in pair if one)}"] = composed
    return found, missing


def _strongest(groups: Mapping[str, xr.Dataset], pattern: str) -> Head | str:
    """Return layer and head with the highest excess at the last step, or why there is none."""
    scores = groups.get("head_scores", xr.Dataset())
    excess = excess_of(scores, pattern)
    if excess is None:
        return "it is not stored with its null" if pattern in scores else _NOT_STORED
    if not excess.size:
        return "the model has no heads"
    last = excess.sortby("step").isel(step=-1).transpose("layer", "head")
    values = np.where(np.isfinite(last.values), last.values, -np.inf)
    layer, head = np.unravel_index(values.argmax(), values.shape)
    threshold = threshold_of(groups.get("head_labels"))
    if has_pattern(values, threshold)[layer, head] != 1:
        return f"no head's {pattern} score is {threshold:g} above its null at the last step"
    return int(last["layer"].values[layer]), int(last["head"].values[head])


def _composition(
    stored: xr.Dataset | None, earlier: Head | None, later: Head | None
) -> xr.DataArray | str:
    if stored is None or "k" not in stored or "k_baseline" not in stored:
        return _NOT_STORED
    if earlier is None or later is None:
        return "one of both heads is missing"
    if earlier[0] >= later[0]:
        return "the previous-token head is not before the induction head"
    labels = {"layer_from": earlier[0], "head_from": earlier[1]}
    labels |= {"layer_to": later[0], "head_to": later[1]}
    series = (stored["k"] - stored["k_baseline"]).sel(labels)
    return series.reset_coords(drop=True)
