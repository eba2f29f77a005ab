"""Zero ablation of heads with attention frozen: the effect through values alone."""

from pipeline.engine.record import PATTERNS
from pipeline.measures.head_ablation import HeadAblation


class PatternPreservingAblation(HeadAblation):
    """Increase of the loss when one head's output is zero and all attention patterns are frozen.

    As `head_ablation`, but every head of later layers keeps its attention pattern without the
    ablation (its queries and keys are those of the unchanged pass; its values are not). This
    removes the head's effect on the logits, directly or through later heads' values and MLPs, but
    not its effect on the attention of later heads (K- and Q-composition). The previous-token head
    of an induction pair shows a large effect in `head_ablation` and none here.

    The paper does this in attention-only models; here MLPs run on the changed stream. Refused for
    models that compute attention in code of their own (GPT-J, GPT-Neo, Bloom, Falcon, MPT, CodeGen,
    XGLM), where it cannot be frozen.
    """

    name = "pattern_preserving_ablation"
    version = 2
    kept = PATTERNS
