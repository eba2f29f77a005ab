"""Weight files that are not what they say of themselves are refused before they are read."""

import json
import os
import pickle
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.checkpoints import archives
from pipeline.checkpoints.digests import sha256_of
from pipeline.checkpoints.pth_files import read_saved
from pipeline.checkpoints.stated_sizes import refuse_misstated
from pipeline.errors import CheckpointError, InputError
from pipeline.models.weights import read_weights

WRONG = "is truncated or no weight file"


def safetensors_file(path: Path, header: dict, data: bytes, length: int = 0) -> Path:
    """Write a file with this header, and make it longer if a length is given."""
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    if length:
        os.truncate(path, length)
    return path


def facts(start: int, stop: int, shape: list[int], dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def test_a_sparse_file_of_100_gb_is_refused_before_it_is_hashed(tmp_path: Path) -> None:
    header = {"a": facts(0, 24, [2, 3])}
    file = safetensors_file(tmp_path / "model.safetensors", header, bytes(24), 100 * 10**9)
    started = time.monotonic()
    with pytest.raises(CheckpointError, match=r"model.safetensors: .* more than by its header"):
        sha256_of(file)
    assert time.monotonic() - started < 60  # minutes, if it were read


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"a": facts(0, 24, [2, 3]), "b": facts(12, 36, [2, 3])}, "overlap or leave a gap"),
        ({"a": facts(0, 24, [2, 3]), "b": facts(28, 36, [2])}, "overlap or leave a gap"),
        ({"a": facts(4, 28, [2, 3]), "b": facts(28, 36, [2])}, "overlap or leave a gap"),
        ({"a": facts(0, 36, [2, 3])}, "'a' is F32 of shape .* and has 36 bytes"),
        ({"a": facts(0, 36, [9], "F16")}, "'a' is F16"),
        ({"a": facts(0, 36, [True, 9])}, "no count"),
        ({"a": facts(0, 36, [9]) | {"dtype": 7}}, "a dtype that is no name"),
        ({"a": facts(0, 10**12, [10**6, 250_000])}, "by its header 1,000,000,000,"),
    ],
)
def test_a_header_that_its_data_contradict_is_refused(
    tmp_path: Path, header: dict, reason: str
) -> None:
    file = safetensors_file(tmp_path / "model.safetensors", header, bytes(36))
    with pytest.raises(CheckpointError, match=f"{WRONG}.*{reason}"):
        refuse_misstated(file)


def test_a_header_with_a_name_twice_is_refused(tmp_path: Path) -> None:
    text = json.dumps({"a": facts(0, 24, [2, 3])})
    text = f"{text[:-1]}, {text[1:]}".encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(24))
    with pytest.raises(CheckpointError, match="the key 'a' twice"):
        refuse_misstated(file)


def saved(path: Path, content: object, **options: bool) -> Path:
    torch.save(content, path, **options)
    return path


@pytest.mark.parametrize("new", [True, False])
def test_what_torch_saves_is_sound(tmp_path: Path, new: bool) -> None:
    state = {f"{i}.weight": torch.randn(3, 4) for i in range(300)}
    file = saved(tmp_path / "pytorch_model.bin", state, _use_new_zipfile_serialization=new)
    refuse_misstated(file)
    assert read_weights(tmp_path).keys() == state.keys()


def rewritten(file: Path, change: Callable[[str, bytes], bytes], how: int) -> Path:
    """Write the entries of an archive again."""
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", how, compresslevel=1) as archive:
        for name, content in entries.items():
            archive.writestr(name, change(name, content))
    return file


@pytest.mark.parametrize("what", ["data.pkl", "data/0"])
def test_a_compressed_entry_is_refused_before_it_is_inflated(tmp_path: Path, what: str) -> None:
    file = saved(tmp_path / "pytorch_model.bin", {"a": torch.zeros(8)})
    bomb = bytes(200 * 2**20)
    rewritten(file, lambda name, c: bomb if name.endswith(what) else c, zipfile.ZIP_DEFLATED)
    started = time.process_time()
    with pytest.raises(CheckpointError, match=f"{WRONG}.*is compressed"):
        read_weights(tmp_path)
    assert time.process_time() - started < 2
    named = file.rename(tmp_path / "100.pth")
    with pytest.raises(InputError, match=r"100.pth: is truncated or no file .*is compressed"):
        read_saved(named)


def test_entries_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    file = saved(tmp_path / "pytorch_model.bin", {"a": torch.zeros(1000)})
    content = bytearray(file.read_bytes())
    at = content.find(b"PK\x01\x02")
    while at >= 0:  # every entry of the table of contents is as long as the whole file
        content[at + 20 : at + 28] = struct.pack("<LL", 4000, 4000)
        at = content.find(b"PK\x01\x02", at + 4)
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="its entries have 28,000 bytes, and the whole file"):
        refuse_misstated(file)


def test_pickles_that_fill_memory_are_refused(tmp_path: Path) -> None:
    lists = saved(tmp_path / "lists.bin", {"a": [[] for _ in range(600_000)]})
    with pytest.raises(CheckpointError, match="more than 1,000,000 operations"):
        refuse_misstated(lists)

    class Filled:
        def __reduce__(self) -> tuple:
            return bytearray, (2**31 - 1,)

    for new in (True, False):
        file = tmp_path / f"filled-{new}.bin"
        filled = saved(file, {"a": Filled()}, _use_new_zipfile_serialization=new)
        with pytest.raises(CheckpointError, match="its pickle names bytearray"):
            refuse_misstated(filled)


def test_a_text_of_a_pickle_is_as_long_as_the_file_at_most(tmp_path: Path) -> None:
    file = tmp_path / "pytorch_model.bin"
    file.write_bytes(pickle.PROTO + b"\x02" + pickle.BINUNICODE + struct.pack("<L", 2**32 - 1))
    os.truncate(file, 6 * 10**9)
    with pytest.raises(CheckpointError, match=f"{WRONG}.*a text of 4,294,967,295 bytes"):
        refuse_misstated(file)


def test_a_view_that_repeats_one_number_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "pytorch_model.bin", {"a": torch.zeros(1).expand(10**6, 10**6)})
    with pytest.raises(CheckpointError, match=r"'a' of shape .* is larger than the whole file"):
        read_weights(tmp_path)


def test_a_table_of_contents_beyond_any_checkpoints_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "pytorch_model.bin"
    end = archives._END.pack(b"PK\x05\x06", 0, 0, 0, 0, 2**31, 0, 0)
    with file.open("wb") as stream:
        stream.write(b"PK")
        stream.seek(3 * 10**9)
        stream.write(end)
    with pytest.raises(CheckpointError, match="its table of contents has 2,147,483,648 bytes"):
        refuse_misstated(file)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_pointer_is_named_before_the_format(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(CheckpointError, match="is a git-lfs pointer, not the file"):
        refuse_misstated(tmp_path / name)
