"""A head that attends a fixed distance back, and an induction head: only the second is one."""

from pathlib import Path

import numpy as np
import torch
import xarray as xr

from pipeline import Analysis, analyze, open_run
from pipeline.analysis.inputs import make_input
from pipeline.config import RepeatedInput
from pipeline.findings import findings
from pipeline.findings.onsets import onsets_of
from pipeline.measures.head_labels import HeadLabels
from pipeline.measures.head_scores import HeadScores
from pipeline.models.organism import OrganismForCausalLM
from pipeline.models.resident import Resident
from tests.pipeline.hand_built import POSITION, POSITIONS, SHARP, hand_built
from tests.pipeline.measures.measuring import measured

LAG = 7  # where the successor lies in a repeated block of 8


def positional() -> OrganismForCausalLM:
    """Return the hand-built model, with layer 1's head 0 attending `LAG` back, head 1 anywhere."""
    model = hand_built()
    state = model.state_dict()
    q, k = (state[f"model.layers.1.self_attn.{name}_proj.weight"].T for name in "qk")
    shift = torch.diag(torch.ones(POSITIONS - LAG), -LAG)
    q[:], k[:] = 0, 0
    q[POSITION, :POSITIONS] = SHARP * shift
    k[POSITION, :POSITIONS] = torch.eye(POSITIONS)
    model.load_state_dict(state)
    return model


def resident_of(model: OrganismForCausalLM) -> Resident:
    resident = Resident(model.config)
    resident.swap({name: p.detach().clone() for name, p in model.named_parameters()})
    return resident


def group(tree: xr.DataTree, name: str) -> xr.Dataset:
    return tree.children[name].to_dataset()


def run_of(folder: Path, model: OrganismForCausalLM, **options) -> str:
    """Return the store of a run whose heads are zero at step 0 and present at step 10."""
    off = hand_built()
    for parameter in off.parameters():
        parameter.data.zero_()
    for step, one in ((0, off), (10, model)):
        one.save_pretrained(folder / "run" / f"step-{step}")
    analysis = Analysis.model_validate({
        "checkpoints": str(folder / "run"), "store": str(folder / "store.zarr"), "audit": "off",
        "inputs": {"repeated": {"kind": "repeated", "block_length": 8, **options}},
        "measures": {"head_scores": {}, "head_labels": {}},
    })  # fmt: skip
    assert not analyze(analysis).failed
    return analysis.store


def test_a_positional_head_is_no_induction_head_by_any_account(tmp_path):
    store = run_of(tmp_path, positional())
    tree, said = open_run(store), findings(store)
    scores = group(tree, "head_scores").sel(step=10, layer=1, head=0)
    assert abs(float(scores["induction"] - scores["induction_null"])) < 0.15  # of 0.31
    assert float(group(tree, "head_labels")["induction"].sel(step=10, layer=1, head=0)) == 0
    assert not float(group(tree, "head_labels")["induction"].sel(layer=0).max())
    assert any(s.startswith("No induction head formed by step 10") for s in said)
    assert any("L1H0 has a prefix-matching score of" in s and "mimics" in s for s in said)
    assert not any("induction" in key for key in onsets_of(store))
    assert any("previous-token head formed: L0H0" in s for s in onsets_of(store).values())


def test_an_induction_head_is_one_by_every_account(tmp_path):
    store = run_of(tmp_path, hand_built())
    tree, said = open_run(store), findings(store)
    assert float(group(tree, "head_labels")["induction"].sel(step=10, layer=1, head=0)) == 1
    assert any(s.startswith("Induction heads formed between steps 0 and 10") for s in said)
    # The second head of the layer has the pattern too (and lowers what it attends to).
    assert any("2 of 4: L1H0 and L1H1 from step 10" in s for s in said)
    (first,) = [s for key, s in onsets_of(store).items() if "induction" in key]
    assert "L1H0 exceeded its null by 0.3 at step 10" in first


def test_where_both_score_alike_nothing_is_claimed(tmp_path):
    store = run_of(tmp_path, positional(), vary=False)
    tree, said = open_run(store), findings(store)
    assert float(group(tree, "head_scores")["induction"].sel(step=10, layer=1, head=0)) > 0.99
    assert np.isnan(group(tree, "head_labels")["induction"].values).all()
    assert any(s.startswith("It is unknown whether induction heads formed") for s in said)
    assert not any("induction" in key for key in onsets_of(store))


def test_padding_rows_change_nothing_where_the_range_is_given(hand_built):
    """Half of the rows stand for nothing: drawn, they would hide what the heads do."""
    padded = _padded()
    spec = RepeatedInput(block_length=8, ids=(0, 20))
    scores = [
        measured(HeadScores(), one, make_input("repeated", spec, "", one.facts))
        for one in (hand_built, padded)
    ]
    for name, values in scores[0].items():
        np.testing.assert_allclose(scores[1][name], values, atol=1e-6, err_msg=name)
    guess = make_input("repeated", RepeatedInput(block_length=8), "", padded.facts)
    assert guess.tokens.max() >= 20
    assert measured(HeadScores(), padded, guess)["induction"][1, 0] < 0.9
    assert "all 40 rows of the embedding, as a guess" in guess.attributes["drawn_from"]


def test_nan_in_the_copying_scores_makes_those_labels_nan(hand_built):
    made = make_input("repeated", RepeatedInput(block_length=8), "", hand_built.facts)
    state = {name: w.clone() for name, w in hand_built.weights.items()}
    state["lm_head.weight"][3, 60] = float("nan")
    hand_built.swap(state)
    labels = measured(HeadLabels(), hand_built, made)
    assert np.isnan(labels["induction"]).all() and np.isnan(labels["anti_induction"]).all()
    assert labels["previous_token"][0, 0] == 1


def _padded() -> Resident:
    """Return the hand-built model with twice the embedding rows, as padding adds them."""
    model = hand_built()
    config = model.config
    config.vocab_size = 40
    state = {
        name: torch.cat([w, torch.zeros_like(w)]) if len(w) == 20 else w
        for name, w in model.state_dict().items()
    }
    resident = Resident(config)
    resident.swap(state)
    return resident
