"""What is lost when a head says the same everywhere."""

from pipeline.measures.head_ablation import HeadAblation


class MeanAblation(HeadAblation):
    """Increase of the loss when one head's output is everywhere its mean.

    As `head_ablation`, but the head's output (before W_O) is replaced by its own mean over all
    tokens of the input, taken at the same checkpoint without ablation. What a head adds whatever
    it reads stays, as a bias would, so that later layers get nothing that they never saw: only
    what the head tells one token from another is lost.
    """

    name = "mean_ablation"
    version = 2
    ablated_to = "mean"
