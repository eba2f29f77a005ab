"""The numbers of every head, read once: each score over training with its null."""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float, Integer

from pipeline.aggregate.head_layers import in_layers_with_heads
from pipeline.findings.number_format import in_words
from pipeline.measures.head_patterns import NULLS
from pipeline.report.site.heads import head_variables
from pipeline.report.site.run_data import Run


@dataclass(frozen=True)
class Score:
    """One number of every head, as stored. null: its null, by head or one for all, if stored."""

    group: str
    variable: str
    unit: str
    definition: str
    steps: Integer[np.ndarray, " step"]
    layers: list[int]
    heads: list[int]
    values: Float[np.ndarray, "step layer head"]
    null_name: str
    null: Float[np.ndarray, "*entries"] | None

    @property
    def address(self) -> str:
        """Return the group and the variable, as a query names them."""
        return f"{self.group}/{self.variable}"

    @property
    def title(self) -> str:
        """Return the name in words, with the group where that is not the default one's."""
        measure, _, given = self.group.partition(".")
        named = in_words(self.variable)
        named = f"{in_words(measure)}: {named}" if measure != "head_scores" else named
        return f"{named} ({given})" if given else named

    @property
    def limits(self) -> tuple[float, float]:
        """Return the ends of an axis: 0 and 1 for shares of attention, else of the numbers."""
        if self.group.partition(".")[0] == "head_scores":
            return 0.0, 1.0
        known = self.values[np.isfinite(self.values)]
        return (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)

    def of(self, layer: int, head: int) -> Float[np.ndarray, " step"] | None:
        """Return one head's numbers; None where the group has no such head."""
        if layer not in self.layers or head not in self.heads:
            return None
        return self.values[:, self.layers.index(layer), self.heads.index(head)]

    def null_of(self, layer: int, head: int) -> Float[np.ndarray, " step"] | None:
        """Return the null of one head's numbers, if it is stored."""
        if self.null is None or self.null.ndim == 1:
            return self.null
        return self.null[:, self.layers.index(layer), self.heads.index(head)]


def scores_of(run: Run) -> list[Score]:
    """Return every number of heads that says something, those of `head_scores` first.

    Left out and noted: those without a finite number, and those that are the same of all heads at
    all steps.
    """
    found = []
    for group, name, values in head_variables(run):
        measure = group.partition(".")[0]
        if measure in ("head_labels", "attention_patterns") or _is_null(name):
            continue
        numbers = values.values
        known = numbers[np.isfinite(numbers)]
        if not known.size or known.min() == known.max():
            run.leave_out(f"{group}/{name}", "undefined" if not known.size else "constant")
            continue
        dataset = run.groups[_measure_of(run, group)][group]
        null_name = null_variable(dataset, name)
        unit = str(values.attrs.get("unit", ""))
        found.append(
            Score(group, name, "" if unit == "1" else unit,
                  str(values.attrs.get("definition", "")), values["step"].values,
                  values["layer"].values.tolist(), values["head"].values.tolist(),
                  numbers, null_name, _null(dataset, null_name))
        )  # fmt: skip
    return sorted(found, key=_rank)


def _rank(score: Score) -> tuple[bool, int]:
    """Return the place of a score: head scores first, and of these induction."""
    order = ("induction", *(name for name in NULLS if name != "induction"))
    place = order.index(score.variable) if score.variable in order else len(order)
    return score.group.partition(".")[0] != "head_scores", place


def null_variable(dataset: xr.Dataset, name: str) -> str:
    """Return the name of the variable that is the null of another one; "" without."""
    names = (NULLS.get(name, ""), f"{name}_null", "null" if name == "score" else "")
    return next((one for one in names if one and one in dataset), "")


def _is_null(name: str) -> bool:
    return name == "null" or name.endswith("_null")


def _null(dataset: xr.Dataset, name: str) -> np.ndarray | None:
    if not name:
        return None
    values = in_layers_with_heads(dataset[name], dataset)
    if "head" in values.dims:
        values = values.transpose("step", "layer", "head")
    return values.values if np.isfinite(values.values).any() else None


def _measure_of(run: Run, group: str) -> str:
    return next(measure for measure, of in run.groups.items() if group in of)
