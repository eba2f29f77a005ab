"""Say where this transformers normalises a recurrence otherwise than newer versions do."""

import transformers
from torch import nn
from transformers import PreTrainedModel


def norm_notes(module: PreTrainedModel) -> tuple[str, ...]:
    """Return a sentence if groups of Mamba 2 are normalised together; else nothing.

    transformers before 5.23 does that in Mamba 2, Bamba and Granite; the definition (Dao and Gu
    2024; mamba-ssm's `group_size`) and newer versions divide each group by its own root mean
    square. A model that such a version trained is computed correctly only by such a version.
    """
    groups = max(map(_groups_normed_together, module.modules()), default=0)
    if not groups:
        return ()
    return (
        f"transformers {transformers.__version__} normalises the {groups} groups of "
        f"{type(module).__name__} together, and 5.23 or newer each group by itself, as mamba-ssm "
        "does: their numbers differ; install the one that computes as the model was trained",
    )


def _groups_normed_together(part: nn.Module) -> int:
    """Return the number of groups that a part's gated norm takes together; 0 if it does not."""
    groups, norm = getattr(part, "n_groups", 1), getattr(part, "norm", None)
    if not hasattr(part, "ssm_state_size") or getattr(norm, "weight", None) is None:
        return 0  # Falcon-H1's norm is the identity by default
    apart = hasattr(norm, "group_size") or hasattr(norm, "n_groups")
    return groups if isinstance(groups, int) and groups > 1 and not apart else 0
