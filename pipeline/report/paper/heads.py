"""Figures for papers of all heads at once: the mosaic of a score, and composition."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.findings.gaps import has_numbers
from pipeline.findings.number_format import in_words
from pipeline.report.downsample import kept_indices
from pipeline.report.paper.style import SCORES, blank, ink_on

_FEW = 40  # heads: their scores are written into the cells
_MOSAICS = {False: 3, True: 6}  # steps in a narrow and in a wide figure
_WIDE = 5.0  # inches


def mosaic(score: xr.DataArray, width: float) -> Figure | None:
    """Return layer by head at a few steps, on one scale from 0 to 1, or None without numbers.

    score: dims step, layer, head; the steps are evenly spaced in log(1 + step) from the first one
    whose numbers differ from the first row's in the first decimal.
    """
    if not has_numbers(score):
        return None
    score = score.transpose("step", "layer", "head").load()
    chosen = score.isel(step=_telling(score, _MOSAICS[width > _WIDE]))
    layers, heads, count = chosen.sizes["layer"], chosen.sizes["head"], chosen.sizes["step"]
    each = (width - 0.6) / count
    figure = blank(width, min(max(each * layers / heads, 0.35), 6.0) + 0.85)
    axes = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    for one, values in zip(axes, chosen, strict=True):
        one.imshow(values, cmap=SCORES, vmin=0, vmax=1, aspect="auto", origin="lower")
        one.set_title(f"step {int(values['step']):,}")
        one.set_xlabel("head")
        _index_ticks(one, chosen["layer"].values, chosen["head"].values)
        if layers * heads <= _FEW and each / heads > 0.2:
            _write(one, values.values)
    axes[0].set_ylabel("layer")
    figure.colorbar(
        axes[0].images[0], ax=axes, label=in_words(str(score.name)), pad=0.01, aspect=12
    )
    return figure


def composition(last: xr.Dataset, width: float) -> Figure | None:
    """Return K, Q and V composition of all pairs of heads at one step, or None without numbers.

    last: the group `composition` at that step. The scale begins at the mean for random matrices:
    pairs at or below it are white.
    """
    kinds = [kind for kind in ("k", "q", "v") if has_numbers(last[kind])]
    if not kinds:
        return None
    tables = {kind: _table(last[kind]) for kind in kinds}
    rows, columns = next(iter(tables.values())).shape
    low = float(min(np.nanmin(last[f"{kind}_baseline"].values) for kind in kinds))
    high = float(max(np.nanmax(table.values) for table in tables.values()))
    each = (width - 0.9) / len(kinds)
    figure = blank(width, min(max(each * rows / columns, 0.6), 6.0) + 0.8)
    axes = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for one, (kind, table) in zip(axes, tables.items(), strict=True):
        one.imshow(
            table, cmap=SCORES, vmin=low, vmax=max(high, low + 1e-6), aspect="auto", origin="lower"
        )
        one.set_title(f"{kind.upper()} composition")
        one.set_xlabel("earlier head")
        _pair_ticks(one, table)
        if rows * columns <= _FEW and each / columns > 0.2:
            _write(one, table.values, low, high)
    axes[0].set_ylabel("later head")
    figure.colorbar(
        axes[0].images[0], ax=axes, label="composition", pad=0.01, aspect=12, extend="min"
    )
    return figure


def _telling(score: xr.DataArray, count: int) -> np.ndarray:
    """Return indices of the steps to show: the first, and from where numbers change to the last."""
    values = np.nan_to_num(score.values.reshape(score.sizes["step"], -1))
    changed = np.flatnonzero(np.abs(values - values[0]).max(axis=1) >= 0.1)
    begins = max(int(changed[0]) - 1, 0) if changed.size else 0
    later = begins + kept_indices(score["step"].values[begins:], count - bool(begins))
    return np.unique([0, *later.tolist()])


def _table(pairs: xr.DataArray) -> xr.DataArray:
    """Return later heads by earlier heads, without the layers that have no pair."""
    ordered = pairs.transpose("layer_to", "head_to", "layer_from", "head_from").load()
    ordered = ordered.dropna("layer_to", how="all").dropna("layer_from", how="all")
    return ordered.stack(later=("layer_to", "head_to"), earlier=("layer_from", "head_from"))


def _pair_ticks(axes: Axes, table: xr.DataArray) -> None:
    """Name every head where there are few, else the first one of each layer."""
    axes.grid(visible=False)
    for axis, dim, layer, head in (
        (axes.yaxis, "later", "layer_to", "head_to"),
        (axes.xaxis, "earlier", "layer_from", "head_from"),
    ):
        layers, heads = table[layer].values, table[head].values
        few = len(heads) <= 8
        at = np.arange(len(heads)) if few else np.flatnonzero(heads == heads.min())
        at = at if few else at[:: max(1, len(at) // 8)]
        names = [f"L{layers[i]}H{heads[i]}" if few else f"L{layers[i]}" for i in at]
        axis.set_ticks(at, names, rotation=90 if dim == "earlier" and few else 0)


def _index_ticks(axes: Axes, layers: np.ndarray, heads: np.ndarray) -> None:
    axes.grid(visible=False)
    for axis, labels in ((axes.yaxis, layers), (axes.xaxis, heads)):
        at = np.arange(0, len(labels), max(1, -(-len(labels) // 8)))
        axis.set_ticks(at, [str(labels[i]) for i in at])


def _write(axes: Axes, values: np.ndarray, low: float = 0.0, high: float = 1.0) -> None:
    """Write the numbers into the cells, in black or white by contrast."""
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = ink_on(SCORES((value - low) / (high - low or 1.0)))
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=5, color=colour)
