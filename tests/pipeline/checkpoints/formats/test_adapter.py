"""LoRA adapters, as peft saves them: merged into their base models."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from s3fs import S3FileSystem
from transformers import AutoModelForCausalLM

from pipeline import extras
from pipeline.auditing import audit
from pipeline.checkpoints import RunLayout, list_run
from pipeline.checkpoints.formats import adapter
from pipeline.errors import InputError
from tests.pipeline.checkpoints.formats.models import (
    assert_same,
    failure_of,
    losses_by,
    losses_of,
    tiny,
    weights_of,
)
from tests.pipeline.checkpoints.servers import Hub

TARGETS = ["q_proj", "v_proj", "down_proj"]
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "modules_to_save": {"modules_to_save": ["lm_head"]},
    "all-linear": {"target_modules": "all-linear"},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}},
    "bias": {"bias": "lora_only"},
    "some layers": {"layers_to_transform": [1]},
}

Write = Callable[..., Path]


@pytest.fixture
def adapted(tmp_path: Path) -> Write:
    """Return `adapted(suffix=".safetensors", model, **settings)`, which writes base and run."""

    def write(
        suffix: str = ".safetensors", model: torch.nn.Module | None = None, **settings: Any
    ) -> Path:
        run, base = tmp_path / "run", tmp_path / "base"
        whole: Any = model or tiny()
        whole.save_pretrained(base)
        settings = {"r": 4, "lora_alpha": 8, "target_modules": TARGETS} | settings
        changed = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base), LoraConfig("CAUSAL_LM", **settings)
        )
        torch.manual_seed(1)
        for parameter in changed.parameters():
            if parameter.requires_grad:
                parameter.data += 0.2 * torch.randn_like(parameter)
        changed.save_pretrained(run / "step-1", safe_serialization=suffix == ".safetensors")
        return run

    return write


def with_settings(run: Path, **changes: Any) -> Path:
    file = run / "step-1" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return run


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_those_of_peft(kind: str, adapted: Write, tmp_path: Path) -> None:
    run = adapted(**KINDS[kind])
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    expected = losses_by(PeftModel.from_pretrained(base, run / "step-1").eval())
    model = tiny()
    model.load_state_dict(weights_of(run))
    np.testing.assert_allclose(losses_by(model), expected, atol=1e-5)
    assert np.abs(losses_by(tiny()) - expected).max() > 0.01  # the base model's are others


def test_an_analysis_of_adapters(adapted: Write, tmp_path: Path) -> None:
    run = adapted(".bin")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    expected = losses_by(PeftModel.from_pretrained(base, run / "step-1").eval())
    losses = losses_of(run, tmp_path / "store.zarr")
    np.testing.assert_allclose(losses[0], expected, atol=1e-5)
    assert not audit(str(run)).faults


def test_a_model_with_transposed_matrices(adapted: Write, tmp_path: Path) -> None:
    run = adapted(
        model=tiny("gpt2", n_embd=16, n_layer=2, n_head=2, n_inner=24, n_positions=32),
        target_modules=["c_attn"], fan_in_fan_out=True,
    )  # fmt: skip
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    expected = losses_by(PeftModel.from_pretrained(base, run / "step-1").eval())
    losses = losses_of(run, tmp_path / "store.zarr")
    np.testing.assert_allclose(losses[0], expected, atol=1e-5)


def test_the_base_model_is_found_beside_the_run_or_given(adapted: Write, tmp_path: Path) -> None:
    run = adapted()
    expected = weights_of(run)
    for said in ("../base", "elsewhere", None):
        with_settings(run, base_model_name_or_path=said)
        if said == "../base":
            assert_same(weights_of(run), expected)
            continue
        assert f"its base model {str(said)!r} is not found: give its folder" in failure_of(run)
        given = RunLayout(base=str(tmp_path / "base"))
        assert_same(weights_of(run, given), expected)
        assert list_run(str(run), layout=given).notes == (
            f"adapters are merged into the model in {tmp_path / 'base'} (checkpoints: 1)",
        )


def test_a_base_that_is_given_must_hold_a_model(adapted: Write, tmp_path: Path) -> None:
    run = adapted()
    with pytest.raises(InputError, match=r"base: .*nothing: there is no such folder"):
        list_run(str(run), layout=RunLayout(base=str(tmp_path / "nothing")))
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match=r"base: .*nothing: holds no weights"):
        list_run(str(run), layout=RunLayout(base=str(tmp_path / "nothing")))


def test_the_base_may_be_in_a_hugging_face_cache(adapted: Write, tmp_path: Path) -> None:
    """Its files are links to blobs; a link elsewhere may lead to the snapshot."""
    run = adapted()
    expected = weights_of(run)
    repository, commit = tmp_path / "cache/models--owner--base", "a" * 40
    snapshot, link = repository / "snapshots" / commit, tmp_path / "models/base"
    for folder in (snapshot, repository / "blobs", repository / "refs", link.parent):
        folder.mkdir(parents=True)
    (repository / "refs/main").write_text(commit)
    for number, file in enumerate(sorted((tmp_path / "base").iterdir())):
        file.rename(repository / f"blobs/{number:040x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:040x}")
    link.symlink_to(snapshot)
    for folder in (repository, snapshot, link):
        assert_same(weights_of(run, RunLayout(base=str(folder))), expected)


def test_adapter_and_base_may_be_on_the_hub(adapted: Write, tmp_path: Path, hub: Hub) -> None:
    run = adapted()
    expected = weights_of(run)
    with_settings(run, base_model_name_or_path="owner/base")
    hub.add_run("owner/adapters", run)
    hub.add_run("owner/base", tmp_path / "base")
    for uri in ("hf://owner/adapters", str(run)):
        assert_same(weights_of(uri), expected)
    hub.repositories["owner/base"].branches.clear()
    assert "its base model 'owner/base' is not found" in failure_of("hf://owner/adapters")


def test_the_digest_is_of_adapter_and_base(adapted: Write, tmp_path: Path) -> None:
    digests = set()
    run = adapted()
    for change in ("nothing", "settings", "base"):
        if change == "settings":
            with_settings(run, lora_alpha=16)
        if change == "base":
            tiny(seed=5).save_pretrained(tmp_path / "base")
        from pipeline.checkpoints.fetch import Copies

        (checkpoint,) = list_run(str(run)).checkpoints
        with Copies().of(checkpoint) as copy:
            digests.add(copy.checkpoint.digest)
    assert len(digests) == 3


def test_adapter_and_base_may_be_on_s3_or_on_disk(
    adapted: Write, tmp_path: Path, s3: object
) -> None:
    run = adapted()
    expected, filesystem = weights_of(run), S3FileSystem()
    filesystem.put(str(run), "runs/here", recursive=True)
    filesystem.put(str(tmp_path / "base"), "runs/base", recursive=True)
    assert "is not found: give its folder" in failure_of("s3://runs/here")
    for uri in (str(run), "s3://runs/here"):
        for base in (str(tmp_path / "base"), "s3://runs/base"):
            assert_same(weights_of(uri, RunLayout(base=base)), expected)


def test_a_whole_model_beside_an_adapter_is_read_as_it_is(adapted: Write, tmp_path: Path) -> None:
    run = adapted()
    other = tiny(seed=5)
    other.save_pretrained(run / "step-1")
    assert_same(weights_of(run), other.state_dict())
    assert list_run(str(run)).notes == (
        "adapters beside a whole model are not merged into it (checkpoints: 1)",
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"peft_type": "IA3"}, "of the type 'IA3', expected LORA"),
        ({"peft_type": None}, "of the type None, expected LORA"),
        ({"init_lora_weights": "pissa"}, "'pissa' changed the base model's own weights"),
        ({"megatron_config": {"a": 1}}, "says megatron_config = {'a': 1}, which is not read"),
        ({"layer_replication": [[0, 2]]}, "says layer_replication"),
        ({"a_future_setting": 3}, "says a_future_setting = 3, which is not read"),
        ({"alora_invocation_tokens": [1, 2]}, "says alora_invocation_tokens = [1, 2]"),
        ({"r": 5}, "does not fit its base model"),
        ({"r": -1}, "does not fit its base model"),
        ({"r": "many"}, "does not fit its base model"),
        ({"target_modules": ["nothing"]}, "does not fit its base model"),
        ({"target_modules": ["q_proj"]}, "does not fit its base model (unexpected"),
        ({"target_modules": [*TARGETS, "o_proj"]}, "does not fit its base model (missing"),
    ],
)
def test_what_is_not_merged_rightly_is_refused(
    changes: dict[str, Any], says: str, adapted: Write
) -> None:
    sentence = failure_of(with_settings(adapted(), **changes))
    assert "adapter_" in sentence and says in sentence


def test_other_kinds_of_adapters_are_refused(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    settings = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    get_peft_model(base, settings).save_pretrained(tmp_path / "run/step-1")
    assert "of the type 'PREFIX_TUNING', expected LORA" in failure_of(tmp_path / "run")


def test_no_module_that_an_adapter_names_is_imported(adapted: Write, tmp_path: Path) -> None:
    run = with_settings(adapted(), megatron_core="antigravity", auto_mapping={"a": "b"})
    weights_of(run)
    import sys

    assert "antigravity" not in sys.modules


def test_a_damaged_adapter_is_named(adapted: Write) -> None:
    run = adapted()
    config = run / "step-1" / "adapter_config.json"
    weights = run / "step-1" / "adapter_model.safetensors"
    settings = config.read_text()
    config.write_text("{")
    assert "adapter_config.json: is not valid JSON" in failure_of(run)
    config.write_text(settings)
    weights.write_bytes(b"\0" * 20)
    assert "adapter_model.safetensors: " in failure_of(run)


def test_a_base_model_of_another_shape_is_refused(adapted: Write, tmp_path: Path) -> None:
    run = adapted()
    tiny(hidden_size=32).save_pretrained(tmp_path / "base")
    assert "does not fit its base model" in failure_of(run)


def test_an_incomplete_base_model_is_refused(adapted: Write, tmp_path: Path) -> None:
    run = adapted()
    config = json.loads((tmp_path / "base/config.json").read_text()) | {"num_hidden_layers": 3}
    (tmp_path / "base/config.json").write_text(json.dumps(config))
    assert "its base model lacks model.layers.2" in failure_of(run)


def test_a_quantised_base_model_is_refused(adapted: Write, tmp_path: Path) -> None:
    run = adapted()
    config = json.loads((tmp_path / "base/config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "base/config.json").write_text(json.dumps(config))
    assert "bitsandbytes 4-bit" in failure_of(run)


def test_peft_is_an_extra(adapted: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    run = adapted()
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    assert "pip install 'ontogeny[adapters]'" in failure_of(run)


def test_names_decide() -> None:
    both = ["adapter_config.json", "adapter_model.bin"]
    assert adapter.weights(["config.json", *both]) == both
    assert adapter.weights([*both, "model.safetensors"]) == [*both, "model.safetensors"]
    assert adapter.weights(both[:1]) == adapter.weights(both[1:]) == []
