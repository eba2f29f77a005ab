"""The induction heads of a trained model as a group: their joined rank, redundancy and backup."""

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.experiments.runs import Result
from pipeline.measures.effective_rank import effective_rank
from pipeline.models.head_names import head_place

# All with the parameter `heads`: those of the group.
MEASURES_OF_GROUPS = ("subset_ablation", "backup", "joined_ov_rank")


@dataclass(frozen=True)
class HeadGroup:
    """The induction heads of a run: their number, and the numbers that decide the claims.

    rank: of the sum of their OV circuits, over d_head. random_rank: the same of as many heads of
    random matrices. by_count: the increase of the loss of repeated tokens without k of them, the
    mean over all choices, in nats, for k = 1 up to all. together: that without all of them, over
    the sum of those without each; 1 for one head. backup: the rise of all later heads' direct
    effects when one is ablated, summed over the ablated, over the sum of their own direct effects,
    final norm frozen; NaN where all of them are in the last layer, which no head can replace, or
    where their direct effects do not help.
    """

    number: int
    rank: float
    random_rank: float
    by_count: tuple[float, ...]
    together: float
    backup: float

    @classmethod
    def of(cls, result: Result) -> "HeadGroup":
        """Read them from the rows of a run's last checkpoint."""
        model = result.run.training.model
        d_head = model.hidden_size // model.num_attention_heads
        subsets = result.group("subset_ablation").repeated_loss.isel(step=-1).load()
        number = int(np.log2(len(subsets)))
        removed = np.bitwise_count(subsets["subset"].values)
        means = [float(subsets.values[removed == k].mean()) for k in range(1, number + 1)]
        return cls(
            number,
            rank=float(result.group("joined_ov_rank")["sum"][-1]) / d_head,
            random_rank=_random_rank(number, model.hidden_size, d_head) / d_head,
            by_count=tuple(means),
            together=means[-1] / (number * means[0]),
            backup=_backup(result, model.num_hidden_layers),
        )


def _random_rank(heads: int, width: int, d_head: int) -> float:
    """Return the effective rank of the sum of W_V W_O of heads with normal entries."""
    rng = np.random.default_rng(0)
    W_V, W_O = rng.normal(size=(heads, width, d_head)), rng.normal(size=(heads, d_head, width))
    values = np.linalg.svd((W_V @ W_O).sum(0), compute_uv=False)
    return float(effective_rank(torch.from_numpy(values)))


def _backup(result: Result, layers: int) -> float:
    change = result.group("backup").direct.isel(step=-1).load()
    rise = lost = 0.0
    for name in change["ablated"].values:
        layer, head = head_place(str(name))
        if layer < layers - 1:
            of_heads = change.sel(ablated=name)
            rise += float(of_heads.sel(layer=slice(layer + 1, None)).sum())
            lost -= float(of_heads.sel(layer=layer, head=head))
    return rise / lost if lost > 0 else np.nan
