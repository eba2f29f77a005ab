"""Other contents in place of weights are recognised, and the message says how to convert them."""

from pathlib import Path

import pytest
from safetensors.torch import save_file

from pipeline.auditing import audit
from pipeline.checkpoints.contents import config_of, local_parts
from pipeline.checkpoints.local import files_of
from pipeline.checkpoints.places import place_of
from pipeline.checkpoints.stored import Folder
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
        (["adapter_model.safetensors"], "a LoRA adapter: merge it"),
        (["pytorch_model_fsdp_0/", "scheduler.pt"], "pytorch_model_fsdp_0/, scheduler.pt (a check"),
        (["__0_0.distcp", ".metadata"], "torch.distributed"),
        (["global_step5/", "zero_to_fp32.py"], "zero_to_fp32.py"),
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
    with pytest.raises(InputError, match=r"is missing; found adapter_config.json, a LoRA adapter"):
        config_of(place_of(str(tmp_path)), folder)
