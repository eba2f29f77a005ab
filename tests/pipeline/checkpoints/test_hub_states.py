"""A repository of state dicts, such as those of TransformerLens' attention-only models."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline import Analysis, analyze, audit, open_run
from pipeline.checkpoints import list_checkpoints
from pipeline.checkpoints.fetch import Copies
from pipeline.checkpoints.metadata import metadata_folder
from pipeline.checkpoints.places import current_folder, place_of
from pipeline.engine.forward import run
from pipeline.engine.record import Pass
from pipeline.errors import InputError
from pipeline.inputs import Input
from pipeline.models.resident import Resident
from pipeline.models.weights import read_weights
from tests.pipeline.checkpoints.test_foreign import HEADS, TOKENS, D, P, lens, lens_logits

EACH = 500_000_000  # tokens of a step, so that the last one is beyond 10^9
CONFIG = {
    "d_model": D, "d_head": D // HEADS, "n_heads": HEADS, "n_layers": 1, "d_mlp": 4 * D, "n_ctx": 3,
    "d_vocab": P + 1, "act_fn": "solu_ln", "attn_only": True, "normalization": "LN",
    "shortformer_pos": False, "ln_eps": 1e-5, "tokens_per_step": EACH,
}  # fmt: skip
URI = "hf://owner/attn-only"


def attention_only(seed: int) -> dict[str, Tensor]:
    state = lens(seed, outputs=P + 1, norm=True)
    return {
        name: tensor
        for name, tensor in state.items()
        if ".mlp." not in name and ".ln2." not in name and name != "unembed.b_U"
    }


def expected_logits(state: dict[str, Tensor], tokens: np.ndarray) -> np.ndarray:
    without = {
        "blocks.0.mlp.W_in": torch.zeros(D, 1), "blocks.0.mlp.b_in": torch.zeros(1),
        "blocks.0.mlp.W_out": torch.zeros(1, D), "blocks.0.mlp.b_out": torch.zeros(D),
        "unembed.b_U": torch.zeros(P + 1),
    }  # fmt: skip
    return lens_logits(state | without, tokens)


@pytest.fixture
def suite(hub, tmp_path: Path) -> Path:
    """Return the initialisation and steps 1 to 4, by the tokens that they have seen."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    torch.save(attention_only(0), tmp_path / "model_init.pth")
    for step in range(1, 5):
        name = f"checkpoints/tokens_{step * EACH:0>12}.pth"
        torch.save(attention_only(step), tmp_path / name)
    commit_of(hub, tmp_path)
    return tmp_path


def commit_of(hub, folder: Path) -> None:
    hub.add_run("owner/attn-only", folder / "checkpoints")  # makes the repository
    files = {
        str(path.relative_to(folder)): path
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".pth", ".json") and "cache" not in path.parts
    }
    hub.repositories["owner/attn-only"].commit_files(files, "main")


def test_state_dicts_are_steps_pinned_to_a_commit(hub, suite):
    found = list_checkpoints(URI)
    assert [c.step for c in found] == [0, 1, 2, 3, 4]
    assert [c.tokens_seen for c in found] == [None, EACH, 2 * EACH, 3 * EACH, 4 * EACH]
    commit = hub.repositories["owner/attn-only"].branches["main"]
    assert found[0].uri == f"{URI}@{commit}/model_init.pth"
    assert found[2].uri == f"{URI}@{commit}/checkpoints/tokens_{2 * EACH:0>12}.pth"


def test_each_state_dict_computes_what_its_own_formulas_say(suite):
    for checkpoint in list_checkpoints(URI):
        resident = Resident(metadata_folder(checkpoint.uri))
        with Copies().of(checkpoint) as copy:
            resident.swap(read_weights(copy.parts))
        made = Input("table", "table", TOKENS, attributes={"p": P})
        record = run(resident, made, Pass("table", logit_positions=(-1,), dtype="float64"))
        expected = expected_logits(attention_only(checkpoint.step), TOKENS)
        np.testing.assert_allclose(record.logits[-1].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_the_whole_suite_is_audited_and_analysed(suite, tmp_path):
    assert audit(URI, deep=True).faults == ()
    analysis = Analysis.model_validate(
        {"checkpoints": URI, "store": str(tmp_path / "a.zarr"), "measures": ["weight_norm"]}
    )
    assert analyze(analysis).computed == [0, 1, 2, 3, 4]
    stored = open_run(analysis.store)["weight_norm"].sum_of_squares.values
    for step in range(5):
        weights = [t for name, t in attention_only(step).items() if not name.endswith(CONSTANTS)]
        expected = sum(float(t.double().square().sum()) for t in weights)
        assert stored[step] == pytest.approx(expected, rel=1e-6)


CONSTANTS = ("mask", "IGNORE")


def test_what_no_organism_has_is_refused(hub, suite):
    (suite / "config.json").write_text(json.dumps(CONFIG | {"attn_only": False}))
    commit_of(hub, suite)
    first = list_checkpoints(URI)[0]
    with pytest.raises(InputError, match="only models without MLPs"):
        place_of(first.uri).read(first.uri, "config.json")


def test_tokens_without_a_step_size_are_refused(hub, suite):
    (suite / "config.json").write_text(json.dumps(CONFIG | {"tokens_per_step": None}))
    commit_of(hub, suite)
    with pytest.raises(InputError, match="has no tokens_per_step"):
        list_checkpoints(URI)


@pytest.mark.parametrize("path", ["../../x.pth", "a/../x.pth", ".hidden/x.pth", "x@y.pth"])
def test_a_path_out_of_the_commit_is_no_address(hub, path):
    with pytest.raises(InputError, match="is no repository's address"):
        list_checkpoints(f"{URI}@{'0' * 40}/{path}")


def test_a_file_of_another_layout_is_itself(hub, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name in ("ckpt_5.pth", "ckpt_6.pth"):
        torch.save({"a": torch.zeros(3)}, tmp_path / "checkpoints" / name)
    commit_of(hub, tmp_path)
    found = list_checkpoints(f"{URI}@main/checkpoints")
    assert [one.step for one in found] == [5, 6]
    files = [list(current_folder(one).files) for one in found]
    assert files == [["ckpt_5.pth"], ["ckpt_6.pth"]]
