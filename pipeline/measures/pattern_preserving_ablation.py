"""What a head contributes through values alone, attention being held as it was."""

from pipeline.measures.head_ablation import HeadAblation


class PatternPreservingAblation(HeadAblation):
    """Increase of the loss when one head's output is zero and all attention stays as it was.

    As `head_ablation`, but every head of later layers attends where it attends without the
    ablation (its queries and keys are those of the unchanged pass; its values are not). What is
    lost is what the head writes towards the logits, directly or through later heads' values and
    MLPs; what it does by moving the attention of later heads (K- and Q-composition) is not. The
    previous-token head of an induction pair shows a large effect in `head_ablation` and none here.

    The paper does this in attention-only models; here MLPs compute on with what reaches them.
    Refused for models that compute attention in code of their own (GPT-J, GPT-Neo, Bloom, Falcon,
    MPT, CodeGen, XGLM), where it cannot be held.
    """

    name = "pattern_preserving_ablation"
    version = 2
    attention_stays = True
