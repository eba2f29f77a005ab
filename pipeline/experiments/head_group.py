"""The induction heads of a trained model as a group: their joined rank, redundancy and backup."""

from dataclasses import dataclass

import numpy as np

from pipeline.experiments.runs import Result
from pipeline.models.head_names import head_place

# All with the parameter `heads`: those of the group.
MEASURES_OF_GROUPS = ("subset_ablation", "backup", "joined_ov_rank")


@dataclass(frozen=True)
class HeadGroup:
    """The induction heads of a run: their number, and the numbers that decide the claims.

    rank: of the sum of their OV circuits, over d_head. together: the increase of the loss of
    repeated tokens without all of them, over the sum of those without each; 1 for one head.
    backup: the rise of all later heads' direct effects when one is ablated, summed over the
    ablated, over the sum of their own direct effects, final norm frozen; 0 where all of them are in
    the last layer, which no head can replace.
    """

    number: int
    rank: float
    together: float
    backup: float

    @classmethod
    def of(cls, result: Result) -> "HeadGroup":
        """Read them from the rows of a run's last checkpoint."""
        model = result.run.training.model
        subsets = result.group("subset_ablation").repeated_loss.isel(step=-1).load()
        number = int(np.log2(len(subsets)))
        single = subsets.sel(subset=2 ** np.arange(number)).sum()
        return cls(
            number,
            float(result.group("joined_ov_rank")["sum"][-1])
            / (model.hidden_size // model.num_attention_heads),
            float(subsets[-1] / single),
            _backup(result, model.num_hidden_layers),
        )


def _backup(result: Result, layers: int) -> float:
    change = result.group("backup").direct.isel(step=-1).load()
    rise = lost = 0.0
    for name in change["ablated"].values:
        layer, head = head_place(str(name))
        if layer < layers - 1:
            of_heads = change.sel(ablated=name)
            rise += float(of_heads.sel(layer=slice(layer + 1, None)).sum())
            lost -= float(of_heads.sel(layer=layer, head=head))
    return rise / lost if lost else 0.0
