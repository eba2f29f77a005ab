"""Where a head rests: attention to the first token, and how spread out its attention is."""

import numpy as np
import torch

from pipeline.engine.record import Entropy, KeyPosition, Pass, Record
from pipeline.measures.base import Measure, Reference, Setting
from pipeline.models.loading import ModelWeights
from pipeline.schema import Variable

_HEAD = ("step", "layer", "head")
_REQUESTS = frozenset({KeyPosition(0), Entropy()})


class Sink(Measure):
    """The off state of a head: attention to the first token, and the entropy of its attention.

        first_token = mean of p[i, 0],    entropy = mean of -sum_j p[i, j] log p[i, j]

    over sequences and over all queries but the first, which can attend to nothing else. A head
    that has nothing to do rests on the first token, with little entropy; a head without a pattern
    has little weight there and much entropy (that of uniform attention is the mean of log(i + 1),
    `uniform_entropy`). Other scores are shares of what the sink leaves. NaN nowhere.

    `head_scores` has `first_token` too, over the first block of repeated random tokens only; here
    it is over every query of any input, text among them.
    """

    name = "sink"
    version = 1
    default_input = "repeated"
    variables = (
        Variable("first_token", _HEAD, "1", "Mean attention to the first token."),
        Variable("entropy", _HEAD, "nats", "Mean entropy of a query's attention over its keys."),
        Variable("uniform_entropy", ("step",), "nats", "What uniform attention would have."),
    )

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """One pass."""
        assert setting.input is not None
        return (Pass(setting.input.name, attention=_REQUESTS),)

    def compute(
        self, records: tuple[Record, ...], weights: ModelWeights, reference: Reference | None
    ) -> dict[str, np.ndarray]:
        """See the class."""
        attention = records[0].attention
        length = records[0].input.tokens.shape[1]
        return {
            "first_token": _mean(attention[KeyPosition(0)]),
            "entropy": _mean(attention[Entropy()]),
            "uniform_entropy": np.log(np.arange(2, length + 1)).mean(),
        }


def _mean(of: torch.Tensor) -> np.ndarray:
    """Over sequences and all queries but the first; padding (NaN) does not count."""
    return of[..., 1:].double().nanmean(dim=(1, 3)).numpy()
