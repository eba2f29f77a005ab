"""Other contents in place of weights are recognised, and the message says how to convert them."""

from pathlib import Path

import pytest
from safetensors.torch import save_file

from pipeline.auditing import audit
from pipeline.checkpoints.configs import config_of
from pipeline.checkpoints.local import files_of
from pipeline.checkpoints.places import place_of
from pipeline.checkpoints.stored import Folder
from pipeline.checkpoints.weight_files import local_parts
from pipeline.errors import CheckpointError, InputError
from pipeline.models.weights import read_weights

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
ANNEX = "/annex/objects/SHA256E-s12345--4d7a2146.bin\n"
PAGE = "\n<!DOCTYPE html>\n<html><head></head></html>"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (LFS, "is a git-lfs pointer, not the file: run git lfs pull"),
        (ANNEX, "is a git-annex pointer, not the file: run git annex get"),
        (PAGE, "is a web page, not the file"),
    ],
)
@pytest.mark.parametrize(
    "name", ["model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"]
)
def test_a_placeholder_is_named(name: str, content: str, says: str, tmp_path: Path) -> None:
    folder = tmp_path / "run/step-1"
    folder.mkdir(parents=True)
    (folder / name).write_text(content)
    with pytest.raises(CheckpointError) as caught:
        read_weights(folder)
    assert f"{name}: {says}" in str(caught.value)
    (fault,) = [f for f in audit(str(tmp_path / "run")).faults if "config.json" not in f.detail]
    assert (fault.kind, fault.step) == ("unreadable-file", 1) and says in fault.detail


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["adapter_model.safetensors"], "an adapter without its adapter_config.json"),
        (["adapter_config.json"], "an adapter without its adapter_model.safetensors"),
        (["__0_0.distcp"], "torch.distributed.checkpoint without their .metadata"),
        (["pytorch_model_fsdp_0_rank0.bin"], "the parts of each process of FSDP"),
        (["global_step5/", "zero_to_fp32.py"], "without its *_model_states.pt"),
        (["mp_rank_00/", "mp_rank_01/"], "a checkpoint of Megatron-LM: export it"),
        ([".metadata", "__0_0.distcp", "common.pt", "metadata.json"], "of Megatron-LM"),
        (["model.tp0.safetensors", "model.tp1.safetensors"], "(tensor parallel): join them"),
        (["model-q4_k_m.gguf"], "a GGUF file of llama.cpp, usually quantised"),
        (["manifest.ocdbt", "d/"], "a checkpoint of JAX (Orbax)"),
        (["best.ckpt", "last.ckpt"], "each may hold the weights: put each into a folder"),
        (["consolidated.safetensors", "params.json"], "Mistral's own layout"),
        (["optimizer.pt"], "found optimizer.pt"),
        ([f"{i}.txt" for i in range(8)], "found 0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 3 more"),
        ([], "the folder is empty"),
    ],
)
def test_a_folder_without_weights_says_what_it_holds(
    names: list[str], says: str, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=r"expected one of model\.safetensors") as caught:
        local_parts(tmp_path)
    assert says in str(caught.value)


def test_an_adapter_without_config_is_named_as_one(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    save_file({}, tmp_path / "adapter_model.safetensors")
    folder = Folder("step-1", str(tmp_path), files_of([str(tmp_path)])[0])
    with pytest.raises(InputError, match=r"its base model 'None' is not found: give its folder"):
        config_of(place_of(str(tmp_path)), folder)
