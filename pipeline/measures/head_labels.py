"""Labels of heads, by a stated rule against a stated null."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float
from pydantic import Field

from pipeline.engine.record import Pass
from pipeline.measures.apply import unmet
from pipeline.measures.base import Context, Measure, NotDefinedError, Setting
from pipeline.measures.behavioural_copying import BehaviouralCopying
from pipeline.measures.head_patterns import NULLS, THRESHOLD, has_pattern
from pipeline.measures.head_scores import HeadScores, why_no_null
from pipeline.schema import Variable

_HEAD = ("step", "layer", "head")
_LABELS = {
    "previous_token": "attends to the token before",
    "current_token": "attends to its own position",
    "sink": "attends to the first token",
    "duplicate_token": "attends to earlier occurrences of its token",
    "induction": "attends to what followed earlier occurrences of its token, and does not lower it",
    "anti_induction": "attends to what followed earlier occurrences of its token, and lowers it",
}


class HeadLabels(Measure):
    """Labels of heads: 1 where the rule holds, 0 where it does not. A head may have several.

    A head has a label where its score exceeds its null by at least `threshold`, both as defined by
    `head_scores` on the same input (the rule of `pipeline.measures.head_patterns`):

        label             score            null
        previous_token    previous_token   uniform_null
        current_token     current_token    uniform_null
        sink              first_token      uniform_null
        duplicate_token   duplicate_token  duplicate_token_null
        induction,
        anti_induction    induction        induction_null

    A head with the induction pattern is labelled anti_induction where its copying score (see
    `behavioural_copying`) is below that score's null by more than `copying_margin`, else
    induction; where copying is not defined for the model, all are labelled induction. The scores
    of an untrained model, another null, are those stored at step 0.

    NaN where a score or its null is NaN: for the last three labels, this is so on an input whose
    blocks all have one length, or are too short or too few, because there an induction head cannot
    be distinguished from a head that attends a fixed distance back.
    """

    name = "head_labels"
    version = 2
    default_input = "repeated"
    input_kind = "repeated"
    needs_heads = True
    variables = tuple(
        Variable(label, _HEAD, "1", f"1 where the head {what}.")
        for label, what in _LABELS.items()
    )  # fmt: skip

    threshold: float = Field(default=THRESHOLD, ge=0, le=1)
    copying_margin: float = Field(default=0.0, ge=0)

    def why_undefined(self, setting: Setting) -> str:
        """Return why the three labels that need a null are undefined, if they are."""
        return why_no_null(setting, "duplicate_token, induction, anti_induction")

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """Return the passes of both scores, which are shared with the measures of those names."""
        return (*HeadScores().passes(setting), *BehaviouralCopying().passes(setting))

    def compute(self, context: Context) -> dict[str, np.ndarray]:
        # The records are in the order of `passes`: first those of the scores, then of the copying.
        scores = HeadScores().compute(replace(context, records=context.records[:1]))
        has = {
            score: has_pattern(scores[score] - scores[null], self.threshold)
            for score, null in NULLS.items()
        }
        lowers = self._lowers(replace(context, records=context.records[1:]))
        return {
            "previous_token": has["previous_token"],
            "current_token": has["current_token"],
            "sink": has["first_token"],
            "duplicate_token": has["duplicate_token"],
            "induction": has["induction"] * (1 - lowers),
            "anti_induction": has["induction"] * lowers,
        }

    def _lowers(self, context: Context) -> Float[np.ndarray, "layer head"] | float:
        """Return 1 where a head suppresses the tokens it attends to, else 0.

        0 also where copying is not defined for the model.
        """
        copying = BehaviouralCopying()
        if unmet(copying, context.model):
            return 0.0
        try:
            found = copying.compute(context)
        except NotDefinedError:
            return 0.0
        below = found["null"] - self.copying_margin - found["score"]
        return (below > 0) + below * 0.0  # the product keeps NaN
