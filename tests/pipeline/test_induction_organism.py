"""The demonstration's induction organism, trained until its induction heads have formed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from pipeline import Analysis, analyze, open_run
from pipeline.measures.head_patterns import excess_of
from pipeline.training import load_training, train

STEPS = 1000  # of the preset's 1,600: heads have formed by then
EVERY = 100
Head = tuple[int, int]

pytestmark = pytest.mark.timeout(900)  # training takes long where the machine is busy


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train the preset's first steps, some 25 s; its rate is constant, so they are the same."""
    preset = load_training("induction")
    schedule = preset.checkpoints.model_copy(update={"every": EVERY})
    folder = str(tmp_path_factory.mktemp("organism") / "run")
    changes = {"output": folder, "steps": STEPS, "checkpoints": schedule}
    return Path(train(preset.model_copy(update=changes)))


def analysed(run: Path, **measures: Any) -> xr.DataTree:
    content = {
        "checkpoints": str(run), "store": str(run.parent / "store.zarr"), "measures": measures,
    }  # fmt: skip
    assert not analyze(Analysis.model_validate(content)).failed
    return open_run(content["store"])


def group(tree: xr.DataTree, name: str) -> xr.Dataset:
    return tree.children[name].to_dataset()


@pytest.fixture(scope="module")
def tree(run: Path) -> xr.DataTree:
    return analysed(run, head_scores={}, head_labels={}, composition={}, repeat_loss={})


def labelled(tree: xr.DataTree, label: str, step: int = STEPS) -> set[Head]:
    holds = group(tree, "head_labels")[label].sel(step=step).values
    return {(int(layer), int(head)) for layer, head in np.argwhere(holds)}


def test_heads_are_labelled_from_the_step_at_which_they_form(tree: xr.DataTree) -> None:
    previous, induction = labelled(tree, "previous_token"), labelled(tree, "induction")
    assert previous and {layer for layer, _ in previous} == {0}
    assert induction and {layer for layer, _ in induction} == {1}
    steps = group(tree, "head_labels").step.values.tolist()
    strongest = {strongest_previous_token(tree)}
    for score, label in (("previous_token", strongest), ("induction", induction)):
        excess = excess_of(group(tree, "head_scores"), score)
        assert excess is not None
        for layer, head in label:
            is_labelled = [(layer, head) in labelled(tree, score, step) for step in steps]
            formed = is_labelled.index(True)
            assert 500 < steps[formed] <= STEPS and all(is_labelled[formed:])
            series = excess.sel(layer=layer, head=head).values
            assert series[formed] >= 0.3 > series[formed - 1]
    for step in (0, 1, 400):
        for label in ("previous_token", "induction", "anti_induction", "duplicate_token", "sink"):
            assert not labelled(tree, label, step), (step, label)


def test_the_tutorial_quotes_this_run(tree: xr.DataTree) -> None:
    page = Path(__file__).resolve().parents[2] / "docs/tutorial-induction.md"
    table = page.read_text().partition("```text\nstep,")[2].partition("```")[0]
    quoted = {int(row.split(",")[0]): float(row.split(",")[-1]) for row in table.split()[1:]}
    found = group(tree, "head_scores")["induction"].sel(layer=1, head=2)
    for step in (700, 800, 900):
        # Another kind of processor gives other last digits.
        assert float(found.sel(step=step)) == pytest.approx(quoted[step], rel=0.05)


def test_the_pair_composes_through_keys_above_the_baseline(tree: xr.DataTree) -> None:
    composition = group(tree, "composition").sel(step=STEPS)
    a, h = strongest_previous_token(tree)
    for b, g in labelled(tree, "induction"):
        pair = composition.sel(layer_from=a, head_from=h, layer_to=b, head_to=g)
        assert pair["k"] > 1.5 * pair["k_baseline"]
        assert pair["k"] > pair["q"] and pair["k"] > pair["v"]


def test_the_gain_on_repeated_tokens_is_the_induction_heads(run: Path, tree: xr.DataTree) -> None:
    """Three heads share the work in this run: each has its part, and all of them all of it."""
    gain = float(group(tree, "repeat_loss")["gain"].sel(step=STEPS))
    assert gain > 2
    heads, previous = sorted(labelled(tree, "induction")), [strongest_previous_token(tree)]
    last = {"select": {"steps": [STEPS]}}
    of = analysed(
        run,
        head_ablation={**last, "heads": heads},
        mean_ablation={**last, "heads": previous},
        pattern_preserving_ablation={**last, "heads": previous},
    )
    effects = group(of, "head_ablation").sel(step=STEPS)
    assert float(effects["together_repeated_loss"]) > 0.8 * gain
    assert min(float(effects["repeated_loss"].sel(layer=b, head=g)) for b, g in heads) > 0.1 * gain
    # The previous-token head works by moving the attention of others, and not otherwise.
    free, held = (
        float(group(of, name)["together_repeated_loss"].sel(step=STEPS))
        for name in ("mean_ablation", "pattern_preserving_ablation")
    )
    assert free > 0.4 * gain and held < 0.1 * gain


def strongest_previous_token(tree: xr.DataTree) -> Head:
    scores = group(tree, "head_scores")["previous_token"].sel(step=STEPS)
    return max(
        labelled(tree, "previous_token"),
        key=lambda at: float(scores.sel(layer=at[0], head=at[1])),
    )
