"""The page of composition: the graph of who reads whom, and a matrix for each path.

Composition has a number for each pair of heads: one data file holds one step, in 8 bits, and is
loaded when it is shown. A head's page has the exact numbers of its partners.
"""

from collections.abc import Iterator

import numpy as np

from pipeline.findings.number_format import number
from pipeline.models.head_names import head_place
from pipeline.report.site.arrays import Json, coloured
from pipeline.report.site.blocks import Page, Section
from pipeline.report.site.composition.data import Composition
from pipeline.report.site.composition.partners import MOST_EDGES, strongest
from pipeline.report.site.heads import Head
from pipeline.report.site.run_data import Run
from pipeline.report.site.specs import Figure, figure, source


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
        {"name": name, "layer": head_place(name)[0], "role": roles.get(name, "none"),
         "href": f"head-{name}.html" if name in roles else ""}
        for name in sorted({*found.readers, *found.read}, key=head_place)
    ]  # fmt: skip
    kept = found.kept.tolist() if over_training else found.kept.tolist()[-1:]
    lowest, edges = 1.0, []
    for index in kept:
        values, random = found.at(index)
        edges.append([_edge(found, *one) for one in strongest(values, random)])
        known = [one[np.isfinite(one)] for one in random.values()]
        lowest = min([lowest, *(float(one.min()) for one in known if one.size)])
    spec: Json = {"kind": "graph", "nodes": nodes, "rules": [{"y": lowest, "label": "random"}]}
    if over_training:
        spec |= {"frames": _frames(run, found) | {"edges": edges}}
    else:
        spec |= {"edges": edges[0]}
    note = (
        f"The {MOST_EDGES} strongest pairs at most, of those above the mean of random matrices of "
        f"the same shape ({number(lowest)}), by keys (K), queries (Q) and values (V)"
    )
    note += f"{_drawn(run, found)}." if over_training else f", at step {found.steps[-1]:,}."
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
        "frames": _frames(run, found) | {"files": files},
    }  # fmt: skip
    note = f"{about} Rows: the later head. Colours are in 254 steps{_drawn(run, found)}."
    return figure(
        f"composition-{path}", f"{path.upper()}-composition", note, spec, run.slug,
        source(run.uri, found.group, path),
    )  # fmt: skip


def _frames(run: Run, found: Composition) -> Json:
    # One score without values: each frame has a file of its own.
    return {"steps": found.steps, "total": len(run.steps),
            "scores": [{"name": "", "values": []}]}  # fmt: skip


def _file(found: Composition, path: str, index: int) -> str:
    return f"composition-{path}-{int(found.rows['step'].values[index])}"


def _drawn(run: Run, found: Composition) -> str:
    said = run.said_drawn(len(found.kept), found.rows.sizes["step"])
    return f"; {said}" if said else ""


def _edge(found: Composition, reader: int, read: int, path: str, value: float) -> Json:
    # The shortest text that rounds to the stored number: float64 would have twice the digits.
    shortest = float(str(found.rows[path].dtype.type(value)))
    return {"from": found.read[read], "to": found.readers[reader], "by": path, "value": shortest}
