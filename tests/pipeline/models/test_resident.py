"""Checkpoints of every layout are read into one resident model, or refused."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import safetensors.torch
import torch
import transformers as hf
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from pipeline.errors import CheckpointError, InputError
from pipeline.models.facts import facts_of
from pipeline.models.fit import check_shapes
from pipeline.models.organism import OrganismForCausalLM
from pipeline.models.organism_config import OrganismConfig
from pipeline.models.resident import Resident
from pipeline.models.weights import read_weights
from tests.pipeline.families import FAMILIES, eager_model

TOKENS = torch.randint(3, 90, (2, 12), generator=torch.Generator().manual_seed(0))


def saved(folder: Path, name: str, **how: object) -> PreTrainedModel:
    model = eager_model(FAMILIES[name](), "float32")
    model.save_pretrained(folder, **how)
    return model


def holds_weights_of(resident: Resident, model: PreTrainedModel) -> bool:
    with torch.inference_mode():
        return torch.equal(resident.module(TOKENS).logits, model(TOKENS).logits)


def rewritten(folder: Path, change) -> None:
    file = folder / "model.safetensors"
    weights = change(safetensors.torch.load_file(file, backend="pread"))
    safetensors.torch.save_file({k: v.contiguous() for k, v in weights.items()}, file)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_model_of_every_family_comes_back_exactly(name: str, tmp_path: Path) -> None:
    model = saved(tmp_path, name)
    resident = Resident(tmp_path)
    resident.swap(read_weights(tmp_path))
    assert holds_weights_of(resident, model)


class TestFiles:
    def test_shards_are_put_together(self, tmp_path: Path) -> None:
        model = saved(tmp_path, "llama", max_shard_size="20KB")
        assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
        resident = Resident(tmp_path)
        resident.swap(read_weights(tmp_path))
        assert holds_weights_of(resident, model)

    @pytest.mark.parametrize("sharded", [False, True])
    def test_pickled_files_are_read_as_plain_tensors(self, sharded: bool, tmp_path: Path) -> None:
        model = eager_model(FAMILIES["gpt2"](), "float32")
        model.config.save_pretrained(tmp_path)
        state = model.state_dict()
        if sharded:
            names = sorted(state)
            parts = {"a.bin": names[::2], "b.bin": names[1::2]}
            for file, part in parts.items():
                torch.save({name: state[name] for name in part}, tmp_path / file)
            index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
            (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        else:
            torch.save(state, tmp_path / "pytorch_model.bin")
        resident = Resident(tmp_path)
        resident.swap(read_weights(tmp_path))
        assert holds_weights_of(resident, model)

    @pytest.mark.parametrize("kept", [0, 4, 100, -1])
    @pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
    def test_a_truncated_file_is_named(self, file: str, kept: int, tmp_path: Path) -> None:
        model = saved(tmp_path, "gpt_neox")
        if file.endswith(".bin"):
            (tmp_path / "model.safetensors").unlink()
            torch.save(model.state_dict(), tmp_path / file)
        content = (tmp_path / file).read_bytes()
        (tmp_path / file).write_bytes(content[:kept])
        with pytest.raises(CheckpointError, match=file):
            read_weights(tmp_path)

    def test_a_file_that_would_run_code_is_refused(self, tmp_path: Path) -> None:
        torch.save({"weight": torch.zeros(1), "hook": Path("x")}, tmp_path / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
            read_weights(tmp_path)

    def test_a_file_of_something_else_than_tensors_is_refused(self, tmp_path: Path) -> None:
        torch.save({"step": 3}, tmp_path / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match="dictionary of tensors"):
            read_weights(tmp_path)

    def test_an_empty_folder_says_what_was_expected(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            read_weights(tmp_path)

    def test_weights_outlive_their_file(self, tmp_path: Path) -> None:
        saved(tmp_path, "gpt_neox")
        before = read_weights(tmp_path)
        kept = {name: tensor.clone() for name, tensor in before.items()}
        file = tmp_path / "model.safetensors"
        file.write_bytes(bytes(file.stat().st_size))
        assert all(torch.equal(before[name], kept[name]) for name in kept)

    def test_threads_read_side_by_side(self, tmp_path: Path) -> None:
        for step in range(4):
            rewritable = tmp_path / str(step)
            saved(rewritable, "gpt_neox")
            rewritten(rewritable, lambda w, step=step: {k: v * 0 + step for k, v in w.items()})
        with ThreadPoolExecutor(4) as pool:
            read = list(pool.map(lambda i: read_weights(tmp_path / str(i % 4)), range(16)))
        for i, weights in enumerate(read):
            assert all(bool((tensor == i % 4).all()) for tensor in weights.values())


class TestNames:
    @pytest.mark.parametrize(
        "wrapped",
        [
            lambda name: f"_orig_mod.{name}",
            lambda name: f"module.{name}",
            lambda name: f"_fsdp_wrapped_module.{name}",
            lambda name: f"module._orig_mod.{name}",
            lambda name: f"_orig_mod.module.{name}",
            lambda name: f"_forward_module._fsdp_wrapped_module.{name}",
            lambda name: name.replace("layers.0.", "layers.0._fsdp_wrapped_module."),
            lambda name: name.replace("layers.", "layers._orig_mod._checkpoint_wrapped_module."),
        ],
    )
    def test_the_names_of_a_wrapped_model_are_its_own(self, wrapped, tmp_path: Path) -> None:
        model = saved(tmp_path, "llama")
        rewritten(tmp_path, lambda w: {wrapped(name): tensor for name, tensor in w.items()})
        weights = read_weights(tmp_path)
        resident = Resident(tmp_path)
        resident.swap(weights)
        assert holds_weights_of(resident, model)
        shapes = {wrapped(name): tuple(tensor.shape) for name, tensor in weights.items()}
        check_shapes(tmp_path, shapes, "the checkpoint")

    @pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "_fsdp_wrapped_module."])
    def test_a_prefix_that_only_some_names_have_stays(self, prefix: str, tmp_path: Path) -> None:
        saved(tmp_path, "llama")
        name = "lm_head.weight"
        rewritten(tmp_path, lambda w: {prefix + k if k == name else k: v for k, v in w.items()})
        with pytest.raises(CheckpointError, match=rf"unexpected: {prefix}lm_head"):
            Resident(tmp_path).swap(read_weights(tmp_path))

    def test_two_names_that_become_one_are_refused(self, tmp_path: Path) -> None:
        saved(tmp_path, "llama")
        rewritten(
            tmp_path, lambda w: w | {"model._orig_mod.norm.weight": w["model.norm.weight"] * 2}
        )
        with pytest.raises(CheckpointError, match="two names of one tensor"):
            read_weights(tmp_path)

    def test_without_its_head_alone_tying_is_proposed(self, tmp_path: Path) -> None:
        saved(tmp_path, "llama")
        rewritten(tmp_path, lambda w: {k: v for k, v in w.items() if "lm_head" not in k})
        with pytest.raises(CheckpointError, match="or set tie_word_embeddings"):
            Resident(tmp_path).swap(read_weights(tmp_path))
        rewritten(tmp_path, lambda w: {k: v for k, v in w.items() if "layers.0" not in k})
        with pytest.raises(CheckpointError, match=r"its config$"):
            Resident(tmp_path).swap(read_weights(tmp_path))

    def test_what_older_versions_named_or_saved_otherwise_still_fits(self, tmp_path: Path) -> None:
        model = saved(tmp_path, "gpt_neox")
        assert "embed_out.weight" in read_weights(tmp_path)  # lm_head.weight in the module

        def as_before(weights: dict[str, Tensor]) -> dict[str, Tensor]:
            weights["gpt_neox.layers.0.attention.bias"] = torch.ones(1, 1, 4, 4)
            weights["gpt_neox.layers.0.attention.masked_bias"] = torch.tensor(-1e9)
            weights["gpt_neox.layers.0.attention.rotary_emb.inv_freq"] = torch.ones(4)
            return weights

        def as_now(weights: dict[str, Tensor]) -> dict[str, Tensor]:
            weights["lm_head.weight"] = weights.pop("embed_out.weight")
            return weights

        resident = Resident(tmp_path)
        for change in (as_before, as_now):
            rewritten(tmp_path, change)
            resident.swap(read_weights(tmp_path))
            assert holds_weights_of(resident, model)

    def test_two_tensors_for_one_place_are_refused(self, tmp_path: Path) -> None:
        saved(tmp_path, "gpt_neox")
        rewritten(tmp_path, lambda w: {**w, "lm_head.weight": w["embed_out.weight"] + 1})
        with pytest.raises(CheckpointError, match=r"embed_out\.weight and lm_head\.weight"):
            Resident(tmp_path).swap(read_weights(tmp_path))

    def test_files_of_the_body_alone_lack_the_prefix(self, tmp_path: Path) -> None:
        model = saved(tmp_path, "gpt2")
        rewritten(tmp_path, lambda w: {k.removeprefix("transformer."): v for k, v in w.items()})
        resident = Resident(tmp_path)
        resident.swap(read_weights(tmp_path))
        assert holds_weights_of(resident, model)

    def test_tied_weights_may_be_saved_once_or_twice(self, tmp_path: Path) -> None:
        model = saved(tmp_path, "gpt2")
        assert "lm_head.weight" not in read_weights(tmp_path)
        rewritten(tmp_path, lambda w: {**w, "lm_head.weight": w["transformer.wte.weight"].clone()})
        resident = Resident(tmp_path)
        resident.swap(read_weights(tmp_path))
        assert holds_weights_of(resident, model)
        module = resident.module
        assert module.get_output_embeddings().weight is module.get_input_embeddings().weight

    def test_tied_weights_that_differ_are_refused(self, tmp_path: Path) -> None:
        saved(tmp_path, "gpt2")
        rewritten(tmp_path, lambda w: {**w, "lm_head.weight": w["transformer.wte.weight"] + 1})
        with pytest.raises(CheckpointError, match="tie_word_embeddings"):
            Resident(tmp_path).swap(read_weights(tmp_path))

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            (lambda w: {k: v for k, v in w.items() if "layers.1.mlp" not in k}, "missing: .*mlp"),
            (lambda w: {**w, "extra": torch.zeros(1)}, "unexpected: extra"),
            (
                lambda w: {**w, "embed_out.weight": torch.zeros(95, 32)},
                r"\[95, 32\] for \[96, 32\]",
            ),
        ],
    )
    def test_tensors_that_do_not_fit_are_listed_and_the_old_ones_kept(
        self, change, expected: str, tmp_path: Path
    ) -> None:
        model = saved(tmp_path, "gpt_neox")
        resident = Resident(tmp_path)
        resident.swap(read_weights(tmp_path))
        rewritten(tmp_path, change)
        with pytest.raises(CheckpointError, match=f"step-7: .*{expected}"):
            resident.swap(read_weights(tmp_path), "step-7")
        assert holds_weights_of(resident, model)

    def test_another_architecture_half_way_is_refused(self, tmp_path: Path) -> None:
        saved(tmp_path / "a", "gpt_neox")
        saved(tmp_path / "b", "llama")
        with pytest.raises(CheckpointError, match="not those of its config"):
            Resident(tmp_path / "a").swap(read_weights(tmp_path / "b"))


class TestDtypes:
    @pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float64])
    def test_weights_are_converted_to_the_resident_s_dtype(
        self, stored: torch.dtype, tmp_path: Path
    ) -> None:
        saved(tmp_path, "llama")
        rewritten(tmp_path, lambda w: {k: v.to(stored) for k, v in w.items()})
        resident = Resident(tmp_path)
        weights = read_weights(tmp_path)
        resident.swap(weights)
        for name, parameter in resident.weights.items():
            assert parameter.dtype == torch.float32
            assert torch.equal(parameter, weights[name].float())

    def test_another_dtype_follows_every_swap(self, tmp_path: Path) -> None:
        model = saved(tmp_path, "gpt_neox")
        resident = Resident(tmp_path)
        for factor in (1.0, 0.5):
            resident.swap({k: v * factor for k, v in model.state_dict().items()})
            wide = dict(resident.module_in("float64").named_parameters())
            for name, parameter in resident.weights.items():
                assert wide[name].dtype == torch.float64
                assert torch.equal(wide[name], parameter.double())
        assert resident.module_in("") is resident.module_in("float32") is resident.module

    def test_rotary_frequencies_keep_their_digits_in_half_precision(self) -> None:
        config = FAMILIES["llama"]()
        half, full = Resident(config, dtype="bfloat16"), Resident(config)
        name = "model.rotary_emb.inv_freq"
        assert torch.equal(dict(half.module.named_buffers())[name],
                           dict(full.module.named_buffers())[name])  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_facts_are_those_of_the_model_that_is_built(name: str, tmp_path: Path) -> None:
    config = FAMILIES[name]()
    config.save_pretrained(tmp_path)
    facts, built = facts_of(tmp_path), Resident(config).facts
    assert facts == built
    assert (facts.n_layers, facts.n_heads, facts.d_model, facts.vocabulary) == (3, 4, 32, 96)
    assert facts.parameters == tuple(n for n, _ in eager_model(config).named_parameters())


class TestArchitectures:
    def test_a_config_of_no_known_model_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
        with pytest.raises(InputError, match=r"config\.json"):
            facts_of(tmp_path)

    def test_an_encoder_is_refused(self) -> None:
        with pytest.raises(InputError, match="no causal language model"):
            facts_of(hf.ViTConfig())

    def test_code_beside_the_config_is_not_run(self, tmp_path: Path) -> None:
        (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
        (tmp_path / "config.json").write_text(json.dumps(
            {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}
        ))  # fmt: skip
        with pytest.raises(InputError):
            facts_of(tmp_path)
        assert not (tmp_path / "ran").exists()


def test_two_hundred_swaps_take_the_memory_of_two(tmp_path: Path) -> None:
    """Resident set of this process, which would grow by 8 MB a swap if one stayed."""
    config = hf.GPTNeoXConfig(
        hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512,
        vocab_size=4096, max_position_embeddings=64,
    )  # fmt: skip
    for step in range(2):
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / str(step))
    resident = Resident(tmp_path / "0")

    def swap(step: int) -> int:
        resident.swap(read_weights(tmp_path / str(step % 2)))
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * 4096

    after = [swap(step) for step in range(200)]
    size = (tmp_path / "0" / "model.safetensors").stat().st_size
    assert size > 7 * 2**20
    assert max(after[100:]) - max(after[1:20]) < size


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_infinite_weights_become_nan_and_no_other_weight_changes(dtype: str) -> None:
    config = OrganismConfig(vocab_size=20, hidden_size=8, num_attention_heads=2)
    given = {
        name: w.to(torch.float64) for name, w in OrganismForCausalLM(config).state_dict().items()
    }
    name = "model.layers.0.self_attn.q_proj.weight"
    given[name][0, :3] = torch.tensor([torch.inf, -torch.inf, 1e300], dtype=torch.float64)
    resident = Resident(config, dtype=dtype)
    resident.swap(given)
    beyond = dtype == "float32"  # 1e300 is infinite there
    for own, weight in resident.weights.items():
        expected = torch.zeros(weight.shape, dtype=torch.bool)
        if own == name:
            expected[0, : 2 + beyond] = True
        assert weight.isnan().equal(expected), own
        kept = given[own].to(weight.dtype)
        assert weight[~expected].equal(kept[~expected])
    assert given[name][0, 0] == torch.inf  # the caller's tensor stays as it was


def test_a_config_of_countless_layers_is_refused_at_once():
    with pytest.raises(InputError, match="num_hidden_layers = 1000000000, expected at most 1000"):
        facts_of(hf.LlamaConfig(num_hidden_layers=10**9))
