"""The experiment on several induction heads, on planted numbers."""

import numpy as np
import pytest
import xarray as xr

from pipeline.experiments.head_group import HeadGroup
from pipeline.experiments.heads import induction_heads, ranked_heads, strongest_head
from pipeline.experiments.redundancy import EXPERIMENT
from pipeline.experiments.runs import Run
from pipeline.experiments.settings import substrings
from tests.pipeline.experiments.planted import PlantedRuns, findings, of_heads, planted

# Of three layers of two heads, three do induction; at step 0 others have higher scores.
SCORES = of_heads([[0.9, 0], [0, 0.9], [0, 0]], [[0, 0.1], [0.8, 0.2], [0.5, 0.7]])
HEADS = [(1, 0), (2, 1), (2, 0)]
RUN = Run(substrings(3), {})


def test_heads_are_ranked_by_the_last_step() -> None:
    assert strongest_head(SCORES) == (1, 0)
    assert ranked_heads(SCORES)[:3] == HEADS
    result = planted(RUN, {"head_scores": xr.Dataset({"induction": SCORES})})
    assert induction_heads(result, 8) == HEADS and induction_heads(result, 2) == HEADS[:2]
    none = planted(RUN, {"head_scores": xr.Dataset({"induction": SCORES * 0.1})})
    assert induction_heads(none, 8) == HEADS[:1]


def rows(all_removed: float, rise: float, rank: float, heads=HEADS) -> dict[str, xr.Dataset]:
    """Return rows in which each head alone costs 0.5, and lets the last layer rise by `rise`."""
    n = len(heads)
    loss = np.zeros((1, 2**n))
    loss[0, 2 ** np.arange(n)], loss[0, -1] = 0.5, all_removed
    direct = np.zeros((1, n, 3, 2))
    for i, (layer, head) in enumerate(heads):
        if layer < 2:
            direct[0, i, layer + 1 :] = rise / (2 * (2 - layer))
        direct[0, i, layer, head] = -2.0
    names = [f"L{layer}H{head}" for layer, head in heads]
    where = {"step": [0], "ablated": names, "layer": np.arange(3), "head": np.arange(2)}
    return {
        "subset_ablation": xr.Dataset(
            {"repeated_loss": (("step", "subset"), loss)},
            {"step": [0], "subset": np.arange(2**n)},
        ),
        "backup": xr.Dataset({"direct": (tuple(where), direct)}, where),
        "joined_ov_rank": xr.Dataset({"sum": ("step", [rank])}, {"step": [0]}),
    }


def test_a_group_is_read_from_its_rows_by_hand() -> None:
    group = HeadGroup.of(planted(RUN, rows(2.25, 0.4, 24.0)))
    assert group.number == 3 and group.rank == 24 / 16
    assert group.together == pytest.approx(2.25 / 1.5)
    assert group.backup == pytest.approx(0.4 / 2)  # of the one head with a layer after it
    last = HeadGroup.of(planted(RUN, rows(2.25, 0.4, 24.0, HEADS[1:])))
    assert last.number == 2 and np.isnan(last.backup)
    assert group.by_count == pytest.approx((0.5, 0, 2.25))
    assert group.random_rank == pytest.approx(rank_of_random_heads(3, 64, 16) / 16, rel=0.03)


def rank_of_random_heads(heads: int, width: int, d_head: int) -> float:
    rng = np.random.default_rng(7)
    joined = sum(rng.normal(size=(width, d_head)) @ rng.normal(size=(d_head, width))
                 for _ in range(heads))  # fmt: skip
    shares = np.linalg.svd(joined, compute_uv=False)
    shares = shares[: heads * d_head] / shares.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def verdicts(plain: tuple[float, ...], dropped: tuple[float, ...]) -> dict[str, str]:
    def groups(run: Run) -> dict[str, xr.Dataset]:
        with_dropout = run.training.model.head_dropout > 0
        values = np.array(dropped if with_dropout else plain) + 0.001 * run.training.seed
        return {"head_scores": xr.Dataset({"induction": SCORES}), **rows(*values)}

    runs = PlantedRuns(groups)
    found = {name: one.verdict for name, one in findings(EXPERIMENT, runs).items()}
    measured = [run for run in runs.seen if "backup" in run.measures]
    assert all(run.measures["backup"]["heads"] == [[1, 0], [2, 1], [2, 0]] for run in measured)
    assert len(measured) == 6
    return found


def test_redundancy_and_backup_that_grow_with_dropout_are_found() -> None:
    found = verdicts(plain=(2.5, 0.2, 24.0), dropped=(3.5, 0.6, 24.0))
    assert set(found.values()) == {"holds"} and len(found) == 5


def test_the_opposite_is_found_of_the_opposite() -> None:
    found = verdicts(plain=(1.2, -0.2, 12.0), dropped=(0.9, -0.4, 12.0))
    assert set(found.values()) == {"does not hold"}
