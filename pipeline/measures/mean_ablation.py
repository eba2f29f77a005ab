"""Mean ablation of heads: the increase of the loss."""

from pipeline.measures.head_ablation import HeadAblation


class MeanAblation(HeadAblation):
    """Increase of the loss when one head's output is replaced by its mean.

    As `head_ablation`, but the head's output (before W_O) is replaced by its own mean over all
    tokens of the input, taken at the same checkpoint without ablation. The constant part of its
    output is kept, like a bias, so that later layers receive typical inputs: only the part that
    differs between tokens is lost.
    """

    name = "mean_ablation"
    version = 2
    ablated_to = "mean"
