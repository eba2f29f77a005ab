"""Composition of heads: strongest partners, matrices, and the graph, at every step that is drawn.

Composition has a number for each pair of heads: one data file holds one step, in 8 bits, and is
loaded when it is shown. A head's page has the exact numbers of its partners.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float

from pipeline.findings.gaps import has_numbers
from pipeline.findings.number_format import head_name, number
from pipeline.report.downsample import RULE, kept_indices
from pipeline.report.site.arrays import Json, coloured
from pipeline.report.site.blocks import Page, Section
from pipeline.report.site.heads import Head
from pipeline.report.site.run_data import Run
from pipeline.report.site.specs import Figure, figure, source

PATHS = ("k", "q", "v")
MOST_PAIRS = 9_000_000  # numbers in all data files: about 8 MB
MOST_EDGES = 60
MOST_PARTNERS = 8  # of a head, in each direction
_PAIR = ("layer_to", "head_to", "layer_from", "head_from")
Matrix = Float[np.ndarray, "to from"]


@dataclass(frozen=True)
class Partner:
    """A pair of heads: how much the later one reads the earlier one by keys, queries or values."""

    reader: str
    read: str
    path: str
    value: float
    random: float

    @property
    def above(self) -> float:
        """Return how far the pair is above random matrices."""
        return self.value - self.random


@dataclass(frozen=True)
class Partners:
    """The strongest pairs of a head above random matrices, and how many are above them."""

    reads: list[Partner]
    read_by: list[Partner]
    count_reads: int
    count_read_by: int


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
    """Return the composition of a run; None where it is not stored or undefined."""
    found = run.first("composition")
    if found is None:
        return None
    group, rows = found
    last = rows.isel(step=-1)
    paths = tuple(path for path in PATHS if path in rows and has_numbers(last[path]))
    for path in [one for one in PATHS if one in rows and one not in paths]:
        run.leave_out(f"{group}/{path}", "undefined")
    if not paths:
        return None
    pairs = last[paths[0]].size * len(paths)
    kept = kept_indices(rows["step"].values, max(MOST_PAIRS // pairs, 2))
    highest = max(float(np.nanmax(last[path].values)) for path in paths)
    return Composition(group, rows, paths, kept, min(1.0, highest * 1.1))


def partners(found: Composition, index: int = -1) -> dict[str, Partners]:
    """Return the partners of each head at a step, by its name."""
    values, random = found.at(index)
    readers, read = found.readers, found.read
    above = np.stack([np.nan_to_num(values[p] - random[p], nan=-1.0) for p in found.paths])

    def pair(path: int, i: int, j: int) -> Partner:
        name = found.paths[path]
        numbers = float(values[name][i, j]), float(random[name][i, j])
        return Partner(readers[i], read[j], name, *numbers)

    made = {}
    for name in {*readers, *read}:
        reads: list[Partner] = []
        read_by: list[Partner] = []
        counts = [0, 0]
        if name in readers:
            i = readers.index(name)
            counts[0] = int((above[:, i] > 0).sum())
            reads = [pair(p, i, j) for p, j in _highest(above[:, i])]
        if name in read:
            j = read.index(name)
            counts[1] = int((above[:, :, j] > 0).sum())
            read_by = [pair(p, i, j) for p, i in _highest(above[:, :, j])]
        made[name] = Partners(reads, read_by, *counts)
    return made


def _highest(above: Float[np.ndarray, "path other"]) -> list[tuple[int, int]]:
    """Return path and place of the highest positive numbers, the highest first."""
    flat = np.argsort(-above, axis=None, kind="stable")[:MOST_PARTNERS].tolist()
    places = [divmod(one, above.shape[1]) for one in flat]
    return [place for place in places if above[place] > 0]


Pair = tuple[int, int, str, float, float]


def strongest(values: dict[str, Matrix], random: dict[str, Matrix]) -> Iterator[Pair]:
    """Yield the pairs that are farthest above random ones: reader, read, path, value, above."""
    paths = list(values)
    above = np.stack([np.nan_to_num(values[p] - random[p], nan=-1.0) for p in paths])
    for flat in np.argsort(-above, axis=None, kind="stable")[:MOST_EDGES].tolist():
        p, i, j = (int(one) for one in np.unravel_index(flat, above.shape))
        if above[p, i, j] > 0:
            yield i, j, paths[p], float(values[paths[p]][i, j]), float(above[p, i, j])


def data_files(found: Composition) -> Iterator[tuple[str, Json]]:
    """Yield name and content of one data file for each path and step that is drawn."""
    for index in found.kept.tolist():
        values, _ = found.at(index)
        for path in found.paths:
            yield _file(found, path, index), coloured(values[path], 0.0, found.high)


def graph(run: Run, found: Composition, heads: list[Head], over_training: bool) -> Figure:
    """Return the graph of who reads whom. over_training: with all steps, else at the last."""
    roles = {one.name: one.role for one in heads}
    nodes = [
        {"name": name, "layer": _place(name)[0], "role": roles.get(name, "none"),
         "href": f"head-{name}.html" if name in roles else ""}
        for name in sorted({*found.readers, *found.read}, key=_place)
    ]  # fmt: skip
    kept = found.kept.tolist() if over_training else found.kept.tolist()[-1:]
    lowest, edges = 1.0, []
    for index in kept:
        values, random = found.at(index)
        edges.append([_edge(found, *one) for one in strongest(values, random)])
        lowest = min([lowest, *(float(np.nanmin(one)) for one in random.values())])
    spec: Json = {"kind": "graph", "nodes": nodes, "rules": [{"y": lowest, "label": "random"}]}
    spec |= {"frames": _frames(found) | {"edges": edges}} if over_training else {"edges": edges[0]}
    note = (
        f"The {MOST_EDGES} strongest pairs at most, of those above what random matrices of the "
        f"same shape give ({number(lowest)}), by keys (K), queries (Q) and values (V)"
    )
    note += f"{_drawn(found)}." if over_training else f", at step {found.steps[-1]:,}."
    return figure(
        "composition-graph", "Who reads whom", note, spec, run.slug,
        source(run.uri, found.group, found.paths[0]),
    )  # fmt: skip


def composition_page(run: Run, found: Composition, heads: list[Head]) -> Page:
    """Return the page with the graph and a matrix for each path."""
    matrices = [_matrix(run, found, path) for path in found.paths]
    return Page(
        "composition.html", "Composition", "Composition of heads",
        "How much a later head reads the output of an earlier one, from the weights.",
        [Section("graph", "Graph", [graph(run, found, heads, over_training=True)]),
         Section("matrices", "Matrices", matrices)],
    )  # fmt: skip


def _matrix(run: Run, found: Composition, path: str) -> Figure:
    """Return the matrix of later heads by earlier ones, of which a data file has each step."""
    about = found.rows[path].attrs.get("definition", "")
    files = [_file(found, path, index) for index in found.kept.tolist()]
    spec = {
        "kind": "matrix", "rows": found.readers, "columns": found.read,
        "y": {"label": "composition", "domain": [0.0, found.high]},
        "frames": _frames(found) | {"files": files},
    }  # fmt: skip
    note = f"{about} Rows: the later head. Colours are in 254 steps{_drawn(found)}."
    return figure(
        f"composition-{path}", f"{path.upper()}-composition", note, spec, run.slug,
        source(run.uri, found.group, path),
    )  # fmt: skip


def _frames(found: Composition) -> Json:
    # One score without values: each frame has a file of its own.
    return {"steps": found.steps, "total": int(found.rows.sizes["step"]),
            "scores": [{"name": "", "values": []}]}  # fmt: skip


def _file(found: Composition, path: str, index: int) -> str:
    return f"composition-{path}-{int(found.rows['step'].values[index])}"


def _drawn(found: Composition) -> str:
    if len(found.kept) == found.rows.sizes["step"]:
        return ""
    return f", drawn at {len(found.kept)} of {found.rows.sizes['step']:,} checkpoints, {RULE}"


def _edge(found: Composition, reader: int, read: int, path: str, value: float, _: float) -> Json:
    return {"from": found.read[read], "to": found.readers[reader], "by": path,
            "value": round(value, 4)}  # fmt: skip


def _names(rows: xr.Dataset, side: str) -> list[str]:
    layers, heads = rows[f"layer_{side}"].values, rows[f"head_{side}"].values
    return [head_name(int(layer), int(head)) for layer in layers for head in heads]


def _place(name: str) -> tuple[int, int]:
    layer, _, head = name[1:].partition("H")
    return int(layer), int(head)
