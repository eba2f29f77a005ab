"""What each head is called, by a stated rule against a stated null."""

import numpy as np
from jaxtyping import Bool, Float
from pydantic import Field

from pipeline.engine.record import Pass, Record
from pipeline.measures.base import Measure, Reference, Setting, require_input
from pipeline.measures.behavioural_copying import BehaviouralCopying
from pipeline.measures.head_scores import BlockLayout, HeadScores
from pipeline.models.loading import ModelWeights
from pipeline.schema import Variable

_HEAD = ("step", "layer", "head")
_LABELS = {
    "previous_token": "attends to the token before",
    "current_token": "attends to its own position",
    "sink": "rests on the first token",
    "duplicate_token": "attends to earlier occurrences of its token",
    "induction": "attends to what followed earlier occurrences of its token, and does not lower it",
    "anti_induction": "attends to what followed earlier occurrences of its token, and lowers it",
}


class HeadLabels(Measure):
    """Labels of heads: 1 where the rule holds, 0 where it does not. A head may have several.

    A head has a label where its score (see `head_scores`) is at least `threshold` and exceeds its
    null by at least `margin`:

        label             score            null
        previous_token    previous_token   uniform attention (mean of 1 / (i + 1))
        current_token     current_token    uniform attention
        sink              first_token      uniform attention
        duplicate_token   duplicate_token  the same score on shuffled tokens
        induction,
        anti_induction    induction        the same score on shuffled tokens

    A head with the induction pattern is called anti_induction where its copying score (see
    `behavioural_copying`) lies below that score's null by more than `copying_margin`, else
    induction. On shuffled tokens every repeated block is in an order of its own, so that keys at
    the same distances hold other tokens; the patterns that do not depend on tokens are the same
    there, and are held against uniform attention instead. The scores of an untrained model, the
    other null, are those stored at step 0.
    """

    name = "head_labels"
    version = 1
    default_input = "repeated"
    variables = (
        *(Variable(label, _HEAD, "1", f"1 where the head {what}.", dtype="int32")
          for label, what in _LABELS.items()),
        Variable("induction_null", _HEAD, "1", "The induction score on shuffled tokens."),
        Variable("duplicate_token_null", _HEAD, "1",
                 "The duplicate-token score on shuffled tokens."),
        Variable("uniform_null", ("step",), "1", "What uniform attention gives to one key."),
    )  # fmt: skip

    threshold: float = Field(0.3, ge=0, le=1)
    margin: float = Field(0.1, ge=0, le=1)
    copying_margin: float = Field(0.0, ge=0)
    shuffled: str = "shuffled"

    @property
    def other_inputs(self) -> tuple[str, ...]:
        """The shuffled tokens."""
        return (self.shuffled,)

    def check(self, setting: Setting) -> None:
        """Both inputs are blocks of random tokens, the same but for their order."""
        require_input(self, setting, "repeated")
        require_input(self, self._null_setting(setting), "repeated")

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """What the scores and their nulls need; shared with the measures of those names."""
        null = self._null_setting(setting)
        return (
            *HeadScores().passes(setting),
            *BehaviouralCopying().passes(setting),
            *HeadScores().passes(null),
        )

    def compute(
        self, records: tuple[Record, ...], weights: ModelWeights, reference: Reference | None
    ) -> dict[str, np.ndarray]:
        """See the class."""
        scores = HeadScores().compute(records[:1], weights, None)
        copying = BehaviouralCopying().computed(records[1:2], weights, None)
        null = HeadScores().compute(records[2:], weights, None)
        uniform = (1 / (BlockLayout(records[0].input).first_block_queries + 1)).mean()
        pattern = self._holds(scores["induction"], null["induction"])
        # A comparison with NaN, where copying is not defined, is false: the pattern decides.
        lowers = copying["score"] < copying["null"] - self.copying_margin
        labels = {
            "previous_token": self._holds(scores["previous_token"], uniform),
            "current_token": self._holds(scores["current_token"], uniform),
            "sink": self._holds(scores["first_token"], uniform),
            "duplicate_token": self._holds(scores["duplicate_token"], null["duplicate_token"]),
            "induction": pattern & ~lowers,
            "anti_induction": pattern & lowers,
        }
        return {
            **{label: holds.astype(np.int32) for label, holds in labels.items()},
            "induction_null": null["induction"],
            "duplicate_token_null": null["duplicate_token"],
            "uniform_null": uniform,
        }

    def _holds(
        self, score: Float[np.ndarray, "layer head"], null: Float[np.ndarray, "layer head"] | float
    ) -> Bool[np.ndarray, "layer head"]:
        return (score >= self.threshold) & (score - null >= self.margin)

    def _null_setting(self, setting: Setting) -> Setting:
        return Setting(setting.model, setting.others[self.shuffled])
