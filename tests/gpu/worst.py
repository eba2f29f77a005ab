"""The worst of many errors of one kind: a part prints one figure for all of them."""

import math
from collections.abc import Mapping
from typing import Any

from tests.gpu.report import Report


class Worst:
    """Collects errors, and keeps of those with equal labels the one nearest to its limit."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self._kept: dict[tuple[Any, ...], dict[str, Any]] = {}

    def add(
        self,
        name: str,
        error: float,
        limit: float,
        labels: Mapping[str, Any],
        at: Mapping[str, Any],
        unit: str = "",
    ) -> None:
        """Take one error. at: labels that tell where it was found."""
        key = (name, *labels.items())
        count = self._kept[key]["cases"] + 1 if key in self._kept else 1
        if key not in self._kept or not _nearness(error, limit) <= self._kept[key]["nearness"]:
            self._kept[key] = {
                "nearness": _nearness(error, limit), "error": error, "limit": limit, "unit": unit,
                "labels": {**labels, **at},
            }  # fmt: skip
        self._kept[key]["cases"] = count

    def print(self) -> None:
        """Print a figure for each name and labels, and forget them."""
        for (name, *_), of in self._kept.items():
            self.report.figure(
                name, of["error"], of["unit"], of["limit"], **of["labels"], cases=of["cases"]
            )
        self._kept.clear()


def _nearness(error: float, limit: float) -> float:
    if math.isnan(error):
        return math.inf
    return error / limit if limit else (math.inf if error else 0.0)
