"""Other contents in place of weights: named, and read where they have one reading."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from pipeline import Analysis, analyze
from pipeline.analysis.inputs import make_input
from pipeline.auditing import audit
from pipeline.checkpoints import list_checkpoints
from pipeline.config import ArrayInput, TextInput
from pipeline.errors import CheckpointError, InputError
from pipeline.models.facts import facts_of
from pipeline.models.resident import Resident
from pipeline.models.weights import read_weights

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
POINTER = "is a git-lfs pointer, not the file: run git lfs pull"
CONFIG = LlamaConfig(
    vocab_size=11, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
)


def state(seed: int = 0, config: LlamaConfig = CONFIG) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return dict(AutoModelForCausalLM.from_config(config).state_dict())


def save(run: Path, step: int, tensors: Mapping[str, Tensor]) -> Path:
    folder = run / f"step-{step}"
    CONFIG.save_pretrained(folder)
    save_file({n: t.clone() for n, t in tensors.items()}, folder / "model.safetensors")
    return folder


def save_pickle(run: Path, content: Any) -> Path:
    folder = run / "step-1"
    CONFIG.save_pretrained(folder)
    torch.save(content, folder / "pytorch_model.bin")
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        Resident(folder).swap(read_weights(folder), str(folder))
    return str(caught.value)


PREFIXES = ["_orig_mod.", "module.", "model.", "net.", "module.model.", "model._orig_mod."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_of_all_names_is_removed(prefix: str, tmp_path: Path) -> None:
    folder = save(tmp_path, 1, {f"{prefix}{name}": one for name, one in state().items()})
    save(tmp_path, 2, state(1))
    resident = Resident(folder)
    resident.swap(read_weights(folder))
    ours = resident.module.state_dict()
    assert all(torch.equal(ours[name], one) for name, one in state().items())
    assert audit(str(tmp_path)).faults == ()
    assert audit(str(tmp_path), deep=True).faults == ()


def test_a_prefix_of_names_that_do_not_fit_is_named(tmp_path: Path) -> None:
    folder = save(tmp_path, 1, {f"net.{n}": t for n, t in state().items() if "lm_head" not in n})
    said = refusal(folder)
    assert "unexpected: net.model.embed_tokens.weight" in said
    assert "; all names begin with 'net.model.'): restore" in said
    (fault,) = audit(str(tmp_path)).faults
    assert fault.kind == "shape-mismatch" and "all names begin with 'net.model.'" in fault.detail


def test_names_of_which_some_have_a_prefix_are_refused(tmp_path: Path) -> None:
    mixed = {("net." if "layers.1" in n else "") + n: t for n, t in state().items()}
    said = refusal(save(tmp_path, 1, mixed))
    assert "unexpected: net.model.layers.1" in said and "all names begin" not in said
    both = {**state(), **{f"{n}._orig_mod"[:-10] + "": t for n, t in state().items()}}
    wrapped = both | {"model._orig_mod.norm.weight": state()["model.norm.weight"]}
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight are two names of one tensor"):
        read_weights(save(tmp_path, 2, wrapped))


@pytest.mark.parametrize("name", ["state_dict", "model_state_dict", "model", "module"])
def test_the_state_dict_beside_other_states_is_read(name: str, tmp_path: Path) -> None:
    folder = save_pickle(tmp_path, {name: state(), "epoch": 3, "optimizer": {"state": {}}})
    found = read_weights(folder)
    assert found.keys() == state().keys()
    assert all(torch.equal(found[n], one) for n, one in state().items())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"state_dict": state(), "model": state(), "epoch": 3}, "'state_dict' = dict and 2 more"),
        ({**state(), "step": 3}, "by name, found 'step' = int: save the weights alone"),
        ({"epoch": 3}, "found 'epoch' = int"),
        ([1, 2], "found list"),
        (nn.Linear(2, 2), "holds a whole model of the class torch.nn.modules.linear.Linear (torch"),
    ],
)
def test_another_pickle_is_described(content: Any, says: str, tmp_path: Path) -> None:
    said = refusal(save_pickle(tmp_path, content))
    assert "step-1/pytorch_model.bin: " in said and says in said and "weights_only" not in said
    (fault,) = audit(str(tmp_path), deep=True).faults
    assert fault.kind == "unreadable-file" and says in fault.detail


def test_a_whole_model_in_a_run_of_files_is_named_by_its_class(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "1000.pt")
    with pytest.raises(InputError, match=r"1000\.pt: holds a whole model of the class torch\.nn"):
        list_checkpoints(str(tmp_path))
    torch.save({"model": nn.Linear(2, 2)}, tmp_path / "1000.pt")
    with pytest.raises(InputError, match=r"1000\.pt: names torch\.nn\.modules.*could run code"):
        list_checkpoints(str(tmp_path))


def test_an_output_embedding_that_is_missing_is_named_with_the_remedies(tmp_path: Path) -> None:
    said = refusal(save(tmp_path, 1, {n: t for n, t in state().items() if "lm_head" not in n}))
    assert "(missing: lm_head.weight): restore the checkpoint or its config, or set tie_wo" in said


def test_empty_tensors_are_not_the_weights_of_the_last_step(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, step, {name: torch.empty(0) for name in state()})
    found = audit(str(tmp_path)).faults
    assert {(fault.step, fault.kind) for fault in found} == {
        (1, "shape-mismatch"), (2, "shape-mismatch"),
    }  # fmt: skip
    assert all("all are empty, as DeepSpeed ZeRO-3 saves them" in fault.detail for fault in found)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "pytorch_model.bin"])
def test_a_pointer_in_a_checkpoint_is_named(name: str, tmp_path: Path) -> None:
    save(tmp_path, 1, state())
    folder = save(tmp_path, 2, state(1))
    if name == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
    (folder / name).write_text(LFS)
    (fault,) = audit(str(tmp_path)).faults
    assert (fault.step, fault.kind) == (2, "unreadable-file")
    assert f"{name}: {POINTER}" in fault.detail
    analysis = Analysis.model_validate({
        "checkpoints": str(tmp_path), "store": str(tmp_path / "a.zarr"), "measures": ["weight_norm"]
    })  # fmt: skip
    assert f"{name}: {POINTER}" in analyze(analysis).failed[2]


def words(folder: Path, count: int) -> None:
    """Write a tokenizer of the words 0, 1, ... to a folder."""
    model = models.WordLevel({str(i): i for i in range(count)}, unk_token="0")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="0").save_pretrained(folder)


def made(spec: TextInput | ArrayInput, folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        make_input("text", spec, str(folder), facts_of(folder))
    return str(caught.value)


def test_a_pointer_in_place_of_an_input_is_named(tmp_path: Path) -> None:
    folder = save(tmp_path, 1, state())
    (tmp_path / "ids.npy").write_text(LFS)
    array = ArrayInput(path=str(tmp_path / "ids.npy"), sequences=2, length=4)
    assert made(array, folder) == f"{tmp_path / 'ids.npy'}: {POINTER}"
    np.zeros(800, np.uint16).tofile(tmp_path / "ids.bin")
    (tmp_path / "ids.bin").write_text(LFS)
    assert f"ids.bin: {POINTER}" in made(
        ArrayInput(path=str(tmp_path / "ids.bin"), dtype="uint16", sequences=2, length=4), folder
    )
    words(folder, 11)
    (tmp_path / "text.txt").write_text(LFS)
    text = TextInput(path=str(tmp_path / "text.txt"), sequences=1, length=2)
    assert f"text.txt: {POINTER}" in made(text, folder)
    (tmp_path / "text.txt").write_text("1 2 3 4 5")
    (folder / "tokenizer.json").write_text(LFS)
    assert f"tokenizer.json: {POINTER}" in made(text, folder)


def test_a_tokenizer_larger_than_its_model_is_said_to_be_so(tmp_path: Path) -> None:
    folder = save(tmp_path, 1, state())
    words(folder, 15)
    (tmp_path / "text.txt").write_text("1 2 14 4 5")
    said = made(TextInput(path=str(tmp_path / "text.txt"), sequences=1, length=4), folder)
    assert "the run's tokenizer has 15 ids, the model 11 rows" in said


def test_a_folder_of_other_state_dicts_names_the_file_and_what_it_holds(tmp_path: Path) -> None:
    torch.save({"attn_blocks.0.W": torch.zeros(2, 2), "head.weight": torch.zeros(2)},
               tmp_path / "final_7.pth")  # fmt: skip
    (tmp_path / "final_7.pth").rename(tmp_path / "7.pth")
    torch.save({"train_losses": [1.0], "test_losses": [2.0]}, tmp_path / "9.pth")
    with pytest.raises(InputError) as caught:
        list_checkpoints(str(tmp_path))
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / '7.pth'}: holds no weights of a known format, found ")
    assert "attn_blocks.0.W, head.weight; expected embed.W_E" in said
    assert "`model: {names: ...}`" in said and "(1 more are refused)" in said
    (tmp_path / "7.pth").unlink()
    with pytest.raises(InputError, match=r"9\.pth: holds no state dict, found train_losses, test_"):
        list_checkpoints(str(tmp_path))


def test_an_unknown_key_is_answered_with_the_known_one() -> None:
    with pytest.raises(InputError, match=r"unknown key 'input'; did you mean 'inputs'\?"):
        from pipeline.config import validated

        validated(Analysis, json.loads('{"checkpoints": "a", "store": "b", "measures": ["x"],'
                                       '"input": {}}'), "a.yaml")  # fmt: skip
