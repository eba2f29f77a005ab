"""The parts that the pages of all heads of a run share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.findings.heads import Heads
from pipeline.report.site.arrays import Json
from pipeline.report.site.composition.partners import Partners
from pipeline.report.site.head.attention import Patterns
from pipeline.report.site.heads import Head
from pipeline.report.site.run_data import Run
from pipeline.report.site.scores import Score
from pipeline.report.site.specs import series


@dataclass(frozen=True)
class RunHeads:
    """The parts that the pages of all heads of a run share."""

    run: Run
    heads: Sequence[Head]
    group: str  # of the scores that label heads; "" without
    main: Heads | None
    scores: Sequence[Score]
    partners: Mapping[str, Partners]  # of each head, by its name
    step: int | None  # of the partners
    attention: Sequence[Patterns] = ()

    def is_effect(self, head: Head, score: Score) -> bool:
        """Return whether a score is the effect of a head that its page begins with."""
        of = head.effect
        return of is not None and (score.group, score.variable) == (of.group, of.variable)

    def is_main(self, head: Head, score: Score) -> bool:
        """Return whether a score is of the pattern that a head is called after."""
        return (score.group, score.variable) == (self.group, head.pattern)


def stored_line(name: str, values: np.ndarray, group: str, variable: str, **more: Any) -> Json:
    """Return a line of numbers as they are in the store, with their address there."""
    return series(name, values, **{"role": "none", **more, "of": f"{group}/{variable}"})
