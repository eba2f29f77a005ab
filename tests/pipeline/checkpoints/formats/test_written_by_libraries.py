"""Files written by litgpt, by Meta's own code and by Composer: the losses are those of the writer.

The files and the losses are in tests/data/formats, with the programs that wrote them.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from tests.pipeline.checkpoints.formats.reference import losses, read, refusal, resident_of

DATA = Path(__file__).parents[3] / "data" / "formats"
FOLDERS = ("meta-one-file", "meta-two-files", "litgpt-neox", "litgpt-llama", "composer")


def assert_losses_of_the_writer(folder: Path) -> None:
    written = json.loads((folder / "losses.json").read_text())
    resident = resident_of(folder)
    found = losses(lambda ids: resident.module(ids).logits, torch.tensor(written["tokens"]))
    expected = torch.tensor(written["losses"], dtype=torch.float64)
    assert expected.std() > 0.3
    assert (found - expected).abs().max() < 1e-5


@pytest.fixture
def copied(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return Path(shutil.copytree(DATA / request.param, tmp_path / request.param))


def changed(folder: Path, **settings: object) -> Path:
    file = folder / "model_config.yaml"
    if file.exists():
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | settings))
    else:
        file = folder / "params.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return folder


@pytest.mark.parametrize("name", FOLDERS)
def test_the_losses_are_those_of_the_writer(name: str) -> None:
    assert_losses_of_the_writer(DATA / name)


@pytest.mark.parametrize("copied", ["litgpt-neox", "litgpt-llama"], indirect=True)
def test_litgpt_before_0_5_4_had_each_groups_rows_in_turn(copied: Path) -> None:
    """The inverse of litgpt's `qkv_reassemble`, which reads these older files."""
    file = copied / "lit_model.pth"
    content = torch.load(file, weights_only=True)
    config = read(copied)[0]
    heads = config["num_attention_heads"]
    groups, size = config.get("num_key_value_heads", heads), 4
    for name in [name for name in content["model"] if ".attn.qkv." in name]:
        fused = content["model"].pop(name)
        query, key, value = fused.split((heads * size, groups * size, groups * size))
        rows = [
            part.chunk(groups)[group] for group in range(groups) for part in (query, key, value)
        ]
        content["model"][name.replace(".attn.qkv.", ".attn.attn.")] = torch.cat(rows)
    torch.save(content, file)
    assert_losses_of_the_writer(copied)


@pytest.mark.parametrize("copied", ["litgpt-llama"], indirect=True)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sliding_window_size", 8), ("norm_qk", True), ("scale_embeddings", True),
        ("final_logit_softcapping", 30.0), ("n_expert", 4), ("rope_condense_ratio", 2),
        ("mlp_class_name", "GemmaMLP"), ("attn_bias", True), ("parallel_residual", True),
        ("rope_interleave", True), ("a_field_of_tomorrow", 1), ("name", "Gemma-2-2b"),
        ("rotary_percentage", 0.5), ("rope_adjustments", {"factor": 2.0}), ("n_head", 0),
    ],
)  # fmt: skip
def test_other_models_of_litgpt_are_refused(copied: Path, field: str, value: object) -> None:
    assert field in refusal(changed(copied, **{field: value}))


@pytest.mark.parametrize("copied", ["litgpt-neox"], indirect=True)
def test_litgpt_needs_its_model_config(copied: Path) -> None:
    (copied / "model_config.yaml").unlink()
    assert "model_config.yaml is not beside it" in refusal(copied)


@pytest.mark.parametrize("copied", ["litgpt-neox"], indirect=True)
@pytest.mark.parametrize("text", ["{", "- 1", "a: !!python/object/apply:os.getcwd []", ""])
def test_a_damaged_model_config_is_refused(copied: Path, text: str) -> None:
    (copied / "model_config.yaml").write_text(text)
    assert "model_config.yaml" in refusal(copied)


@pytest.mark.parametrize("copied", ["litgpt-neox"], indirect=True)
def test_a_model_config_that_names_a_list_many_times_is_refused(copied: Path) -> None:
    """Spelt out, it has 10⁹ values."""
    lists = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    text = "\n".join(["a0: &a0 [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]", *lists, "rope_adjustments: *a8"])
    (copied / "model_config.yaml").write_text(text)
    assert "is no mapping of settings" in refusal(copied)


@pytest.mark.parametrize("copied", ["meta-one-file"], indirect=True)
def test_llama_2_divides_the_columns_of_the_embedding(copied: Path) -> None:
    """fairscale's ParallelEmbedding, which Meta had for it, says the same."""
    file = copied / "consolidated.00.pth"
    whole = torch.load(file, weights_only=True)
    by_columns = ("wo.weight", "w2.weight", "tok_embeddings.weight")
    for rank in range(2):
        part = {
            name: tensor
            if "norm" in name
            else tensor.chunk(2, dim=int(name.endswith(by_columns)))[rank].clone()
            for name, tensor in whole.items()
        }
        torch.save(part, copied / f"consolidated.{rank:02}.pth")
    assert_losses_of_the_writer(copied)


@pytest.mark.parametrize("copied", ["meta-two-files"], indirect=True)
def test_the_scaling_of_rotations_matters(copied: Path) -> None:
    changed(copied, use_scaled_rope=False)
    with pytest.raises(AssertionError):
        assert_losses_of_the_writer(copied)


@pytest.mark.parametrize("copied", ["meta-two-files"], indirect=True)
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dim": "16"}, "dim = '16'"), ({"n_heads": 3}, "divide"), ({"n_layers": -1}, "n_layers"),
        ({"vision_chunk_size": 448}, "vision_chunk_size"), ({"moe": {"num_experts": 8}}, "moe"),
        ({"norm_eps": None}, "norm_eps"), ({"quantization_args": {"spinquant": True}}, "quantiz"),
        ({"use_scaled_rope": 1}, "use_scaled_rope"), ({"n_kv_heads": 2**40}, "n_kv_heads"),
    ],
)  # fmt: skip
def test_other_models_of_meta_are_refused(copied: Path, settings: dict, said: str) -> None:
    message = refusal(changed(copied, **settings))
    assert "params.json" in message and said in message


@pytest.mark.parametrize("copied", ["meta-two-files"], indirect=True)
def test_a_file_that_lacks_a_tensor_is_named(copied: Path) -> None:
    file = copied / "consolidated.01.pth"
    content = torch.load(file, weights_only=True)
    del content["layers.1.attention.wo.weight"]
    torch.save(content, file)
    assert "layers.1.attention.wo.weight" in refusal(copied)


@pytest.mark.parametrize("copied", ["meta-two-files"], indirect=True)
@pytest.mark.parametrize("lost", [0, 1])
def test_a_missing_file_of_meta_is_said(copied: Path, lost: int) -> None:
    (copied / f"consolidated.{lost:02}.pth").unlink()
    assert "restore the other consolidated files" in refusal(copied)


@pytest.mark.parametrize("copied", ["meta-two-files"], indirect=True)
def test_meta_needs_its_params(copied: Path) -> None:
    (copied / "params.json").unlink()
    assert "params.json: is missing" in refusal(copied)


@pytest.mark.parametrize("copied", ["composer"], indirect=True)
def test_composer_without_its_config_is_refused(copied: Path) -> None:
    file = next(copied.glob("*.pt"))
    content = torch.load(file, weights_only=False)
    config = content["state"].pop("integrations")["huggingface"]["model"]["config"]["content"]
    torch.save(content, file)
    message = refusal(copied)
    assert "no config.json says which model" in message and "state dict of model." in message
    assert read(copied, config)[1].keys() == read(DATA / "composer")[1].keys()
