import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.checkpoints.files import is_plain_name
from pipeline.checkpoints.weight_files import local_parts
from pipeline.errors import CheckpointError


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_a_whole_file_is_found(tmp_path, write_checkpoint, suffix):
    folder = write_checkpoint(tmp_path / "run/step-0", suffix=suffix)
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    assert list(local_parts(folder).files.values()) == [folder / f"{stem}{suffix}"]


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_shards_are_found_through_their_index(tmp_path, write_checkpoint, suffix):
    folder = write_checkpoint(tmp_path / "run/step-0", suffix=suffix, sharded=True)
    assert list(local_parts(folder).files.values()) == sorted(folder.glob(f"*-of-00002{suffix}"))


def test_safetensors_are_preferred_to_pickles_even_when_sharded(tmp_path, write_checkpoint):
    folder = write_checkpoint(tmp_path / "run/step-0", sharded=True)
    (folder / "pytorch_model.bin").write_bytes(b"")
    assert {file.suffix for file in local_parts(folder).files.values()} == {".safetensors"}


def test_a_folder_without_weights_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=rf"{tmp_path}: holds no weights; expected one of"):
        local_parts(tmp_path)


def test_a_missing_shard_is_named(tmp_path, write_checkpoint):
    folder = write_checkpoint(tmp_path / "run/step-0", sharded=True)
    shard = folder / "model-00002-of-00002.safetensors"
    shard.unlink()
    with pytest.raises(CheckpointError, match=rf"{shard}: is missing, though .*index.json names"):
        local_parts(folder)


@pytest.mark.parametrize(
    "content",
    ["", "not json", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "\xff"],
)
def test_a_broken_index_is_named(tmp_path, content):
    index = tmp_path / "model.safetensors.index.json"
    index.write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"index.json: (is no index of|names no) weight"):
        local_parts(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["../secret", "/etc/passwd", "sub/part.safetensors", "..", ".", "", "a\0b", "..\\x", ".x", 7],
)
def test_an_index_cannot_name_anything_beyond_its_folder(tmp_path, name):
    folder = tmp_path / "run" / "step-0"
    (folder / "sub").mkdir(parents=True)
    for target in (tmp_path / "run" / "secret", folder / "sub" / "part.safetensors"):
        target.write_bytes(b"x")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match=r"names the shard|is missing|is no index"):
        local_parts(folder)


@given(st.text())
def test_a_plain_name_stays_in_its_folder(name):
    if is_plain_name(name):
        assert (Path("/run/step") / name).parent == Path("/run/step")
        assert name not in (".", "..")


@pytest.mark.parametrize("name", ["/", "//", "a/", "/a", "./a"])
def test_a_name_with_a_slash_is_no_plain_name(name):
    assert not is_plain_name(name)


def test_a_link_out_of_the_run_is_refused(tmp_path, write_checkpoint):
    outside = write_checkpoint(tmp_path / "elsewhere/step-0")
    folder = write_checkpoint(tmp_path / "run/step-0")
    file = folder / "model.safetensors"
    file.unlink()
    file.symlink_to(outside / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"{file}: is a link that leads out of the run"):
        local_parts(folder)


def test_a_checkpoint_folder_that_is_a_link_out_of_the_run_is_refused(tmp_path, write_checkpoint):
    outside = write_checkpoint(tmp_path / "elsewhere/step-0")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/step-0").symlink_to(outside)
    with pytest.raises(CheckpointError, match="leads out of the run"):
        local_parts(tmp_path / "run/step-0")


def test_links_within_the_run_are_followed(tmp_path, write_checkpoint):
    first = write_checkpoint(tmp_path / "run/step-0")
    second = write_checkpoint(tmp_path / "run/step-1")
    (second / "model.safetensors").unlink()
    (second / "model.safetensors").symlink_to(first / "model.safetensors")
    assert list(local_parts(second).files.values()) == [second / "model.safetensors"]


def test_a_run_that_is_itself_reached_by_a_link_is_read(tmp_path, write_checkpoint):
    write_checkpoint(tmp_path / "disk/run/step-0")
    (tmp_path / "run").symlink_to(tmp_path / "disk/run")
    assert len(local_parts(tmp_path / "run/step-0").files) == 1
