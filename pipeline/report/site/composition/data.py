"""The composition of a run's heads, read step by step."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float

from pipeline.findings.gaps import has_numbers
from pipeline.models.head_names import head_name
from pipeline.report.downsample import kept_indices
from pipeline.report.site.run_data import Run

PATHS = ("k", "q", "v")
MOST_PAIRS = 9_000_000  # numbers in all data files: about 8 MB
_PAIR = ("layer_to", "head_to", "layer_from", "head_from")
Matrix = Float[np.ndarray, "to from"]


@dataclass(frozen=True)
class Composition:
    """The group of a run. kept: indices of the steps that are drawn. high: of the colours."""

    group: str
    rows: xr.Dataset
    paths: tuple[str, ...]
    kept: np.ndarray
    high: float

    @property
    def steps(self) -> list[int]:
        """Return the steps that are drawn."""
        return self.rows["step"].values[self.kept].tolist()

    @property
    def readers(self) -> list[str]:
        """Return the names of the later heads, the rows."""
        return _names(self.rows, "to")

    @property
    def read(self) -> list[str]:
        """Return the names of the earlier heads, the columns."""
        return _names(self.rows, "from")

    def at(self, index: int) -> tuple[dict[str, Matrix], dict[str, Matrix]]:
        """Return the numbers at a step, and those of random matrices, by path."""
        values, random = {}, {}
        for path in self.paths:
            values[path] = self._matrix(path, index)
            base = f"{path}_baseline"
            known = base in self.rows
            random[path] = self._matrix(base, index) if known else np.zeros_like(values[path])
        return values, random

    def _matrix(self, name: str, index: int) -> Matrix:
        one = self.rows[name].isel(step=index).transpose(*_PAIR).values
        return one.reshape(one.shape[0] * one.shape[1], -1)


def composition_of(run: Run) -> Composition | None:
    """Return the composition of a run up to the last step that has numbers.

    None where it is not stored or undefined. Steps without numbers are not drawn.
    """
    found = run.first("composition")
    if found is None:
        return None
    group, rows = found[0], _up_to_numbers(_possible(found[1]))
    stored = [path for path in PATHS if path in rows]
    if not rows.sizes["step"]:
        for path in stored:
            run.leave_out(f"{group}/{path}", "undefined")
        return None
    last = rows.isel(step=-1)
    paths = tuple(path for path in stored if has_numbers(last[path]))
    for path in [one for one in stored if one not in paths]:
        run.leave_out(f"{group}/{path}", f"undefined at step {int(last['step']):,}")
    pairs = last[paths[0]].size * len(paths)
    kept = kept_indices(rows["step"].values, max(MOST_PAIRS // pairs, 2))
    kept = np.array([i for i in kept.tolist() if _has_some(rows.isel(step=i), paths)])
    highest = max(float(np.nanmax(last[path].values)) for path in paths)
    return Composition(group, rows, paths, kept, min(1.0, highest * 1.1))


def _up_to_numbers(rows: xr.Dataset) -> xr.Dataset:
    """Return the rows up to the last step at which a path has a number; none without any."""
    for count in range(rows.sizes["step"], 0, -1):  # one step at a time: all are gigabytes
        if _has_some(rows.isel(step=count - 1), PATHS):
            return rows.isel(step=slice(count))
    return rows.isel(step=slice(0))


def _has_some(rows: xr.Dataset, paths: Sequence[str]) -> bool:
    return any(has_numbers(rows[path]) for path in paths if path in rows)


def _possible(rows: xr.Dataset) -> xr.Dataset:
    """Return the pairs that can hold a number.

    A head of the first layer reads no other, and a head of the last layer is read by none.
    """
    if not rows.sizes["layer_from"] or not rows.sizes["layer_to"]:
        return rows
    lowest, highest = rows["layer_from"].min(), rows["layer_to"].max()
    return rows.isel(
        layer_to=np.flatnonzero(rows["layer_to"] > lowest),
        layer_from=np.flatnonzero(rows["layer_from"] < highest),
    )


def _names(rows: xr.Dataset, side: str) -> list[str]:
    layers, heads = rows[f"layer_{side}"].values, rows[f"head_{side}"].values
    return [head_name(int(layer), int(head)) for layer in layers for head in heads]
