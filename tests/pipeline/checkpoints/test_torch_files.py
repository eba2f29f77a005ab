"""Files of torch.save without their tensors' bytes, damaged and hostile ones among them."""

import argparse
import datetime
import errno
import io
import os
import pickle
import struct
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.checkpoints import archives
from pipeline.checkpoints.inert import unpickling
from pipeline.checkpoints.torch_files import SavedFile, described, saved_file
from pipeline.errors import CheckpointError

STATE = {
    "a": torch.randn(50, 7),
    "half": torch.randn(4, 3).bfloat16(),
    "turned": torch.randn(6, 5).T,
    "part": torch.randn(9, 9)[2:5, 1:],
    "whole": torch.arange(4),
    "nothing": torch.empty(0, 3),
    "number": torch.tensor(2.5, dtype=torch.float64),
    "true": torch.tensor([True, False]),
}


def written(content: object, **settings: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **settings)
    return stream.getvalue()


def of_bytes(content: bytes) -> Any:
    return described(lambda start, stop: content[start:stop], len(content))


def saved_in(content: bytes) -> SavedFile:
    return SavedFile(lambda start, stop: content[start:stop], len(content))


def reason(content: bytes) -> str:
    with pytest.raises(ValueError) as error:
        of_bytes(content)
    assert "\n" not in str(error.value)
    return str(error.value)


@dataclass
class Options:
    rate: float = 0.1


def test_only_kilobytes_of_a_large_file_are_requested(tmp_path: Path) -> None:
    content = {"model": {f"layer.{n}": torch.ones(2**20) for n in range(30)}, "step": 7}
    file = tmp_path / "large.pt"
    torch.save(content, file)
    size, requests = file.stat().st_size, []

    def read(start: int, stop: int | None) -> bytes:
        with file.open("rb") as stream:
            stream.seek(start)
            requests.append(stream.read(-1 if stop is None else stop - start))
        return requests[-1]

    found = described(read, size)
    assert found["step"] == 7 and found["model"]["layer.29"].is_meta
    assert found["model"]["layer.29"].shape == (2**20,)
    assert size > 120 * 2**20
    assert len(requests) <= 3 and sum(map(len, requests)) <= 4 * 2**16


def test_tensors_are_loaded_as_torch_loads_them(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    torch.save({"model": STATE, "tied": [STATE["a"], STATE["a"]]}, file)
    with saved_file(file) as saved:
        tied = dict(zip("xy", saved.content["tied"], strict=True))
        found = saved.loaded(saved.content["model"] | tied)
    for name, tensor in STATE.items():
        assert torch.equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype and found[name].stride() == tensor.stride()
    assert found["x"].data_ptr() == found["y"].data_ptr() == found["a"].data_ptr()
    found["a"] += 1  # a copy, which may be changed


def test_parameters_and_ordered_dictionaries_are_loaded() -> None:
    module = torch.nn.Linear(3, 2)
    content = written(OrderedDict(w=module.weight))
    saved = SavedFile(lambda start, stop: content[start:stop], len(content))
    assert torch.equal(saved.loaded(saved.content)["w"], module.weight)


def test_settings_keep_their_values_and_run_nothing() -> None:
    settings = argparse.Namespace(rate=0.1, out=PurePosixPath("/runs/a"), many=[1, "two"])
    content = {
        "args": settings, "score": np.float64(1.5), "took": datetime.timedelta(seconds=2),
        "random": np.random.RandomState(0).get_state(), "torch": torch.__version__,
    }  # fmt: skip
    found = of_bytes(written(content))
    assert vars(found["args"]) == {"rate": 0.1, "out": "/runs/a", "many": [1, "two"]}
    assert not isinstance(found["args"], argparse.Namespace)
    assert found["score"] == 1.5 and found["torch"] == str(torch.__version__)


def test_files_are_read_by_many_threads_at_once() -> None:
    """Of two that name one class, both know its replacement: torch keeps them for all threads."""
    content = written({"args": argparse.Namespace(rate=0.1)})
    is_entered, may_leave = threading.Event(), threading.Event()

    def hold() -> None:
        with unpickling(lambda: ["argparse.Namespace"]):
            is_entered.set()
            may_leave.wait(120)

    with ThreadPoolExecutor(2) as threads:
        other = threads.submit(hold)
        assert is_entered.wait(120)
        found = threads.submit(of_bytes, content)
        wait([found], timeout=0.3)
        may_leave.set()
        assert vars(found.result()["args"]) == {"rate": 0.1}
        other.result()


class _Code:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, ("touch it-was-run",)


class _Named:
    """Names a class of settings for another one than it is."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return exec, ("raise SystemExit",)


@pytest.mark.parametrize("hostile", [_Code(), _Named(), torch.nn.Linear(2, 2), Options()])
def test_other_classes_are_refused_by_name(hostile: object) -> None:
    message = reason(written({"model": {"a": torch.ones(2)}, "extra": hostile}))
    assert "could run code are refused" in message
    assert message.split(",")[0].split()[-1].count(".") >= 1
    assert not Path("it-was-run").exists()


def test_a_class_named_as_settings_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(argparse.Namespace, "__init__", lambda *_, **__: called.append(1))
    content = pickle.dumps(argparse.Namespace, protocol=2)[:-1] + b"(X\x01\x00\x00\x00at\x81."
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", content)
        file.writestr("archive/version", "3")
    with suppress(ValueError):
        of_bytes(archive.getvalue())
    assert not called


@pytest.mark.parametrize("kept", [0, 1, 3, 200, 0.3, 0.9, 0.999])
def test_a_file_that_is_cut_off_is_refused(kept: float) -> None:
    content = written({"model": STATE})
    reason(content[: int(kept if kept >= 3 or kept in (0, 1) else kept * len(content))])


@pytest.mark.parametrize(
    "content",
    [b"<!doctype html><html>", b"version https://git-lfs.github.com/spec/v1\n", b"x" * 90],
)
def test_what_is_no_file_of_torch_is_said(content: bytes) -> None:
    assert reason(content).startswith(("is a web page", "is a git-lfs pointer", "is no file"))


def test_old_files_cannot_be_described() -> None:
    content = written({"a": torch.ones(2)}, _use_new_zipfile_serialization=False)
    assert "before 1.6" in reason(content) and "save it again" in reason(content)


def test_a_program_of_torchscript_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "a.pt")
    assert "TorchScript" in reason((tmp_path / "a.pt").read_bytes())


def changed_record(content: bytes, name: str, record: bytes) -> bytes:
    """Return an archive with another content of a record."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
        for entry in old.infolist():
            is_it = entry.filename.endswith(name)
            new.writestr(entry.filename, record if is_it else old.read(entry))
    return stream.getvalue()


@pytest.mark.parametrize(("name", "record"), [("data/0", b"1234"), ("data/0", b"")])
def test_a_record_of_another_size_is_refused(name: str, record: bytes) -> None:
    content = changed_record(written({"a": torch.ones(50), "b": torch.ones(50)}), name, record)
    saved = SavedFile(lambda start, stop: content[start:stop], len(content))
    with pytest.raises(ValueError, match="'a' needs 200 bytes, and the record for it has"):
        saved.loaded(saved.content)


def test_another_byte_order_is_refused() -> None:
    assert "byte order" in reason(changed_record(written(STATE), "byteorder", b"big"))


def test_a_view_larger_than_the_file_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1).expand(10**9)}, tmp_path / "a.pt")
    with (
        pytest.raises(CheckpointError, match="larger than the whole"),
        saved_file(tmp_path / "a.pt") as saved,
    ):
        saved.loaded(saved.content)


def test_random_damage_is_met_with_a_reason() -> None:
    whole = written({"model": STATE, "args": argparse.Namespace(a=1)})
    random = np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(whole)
        for place in random.integers(len(content), size=random.integers(1, 20)):
            content[place] = random.integers(256)
        try:
            saved = saved_in(bytes(content))
            tensors = saved.content["model"]
            saved.loaded({n: one for n, one in tensors.items() if isinstance(one, Tensor)})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            # Of the test's own look at a damaged object: its keys may be others.
            assert isinstance(error, ValueError) or "model" in str(error) or "object" in str(error)


@pytest.mark.parametrize("number", [errno.EIO, errno.ETIMEDOUT, errno.ECONNRESET])
def test_errors_of_the_storage_pass(number: int) -> None:
    def broken(start: int, stop: int | None) -> bytes:
        raise OSError(number, os.strerror(number))

    with pytest.raises(OSError) as error:
        described(broken, 10**6)
    assert error.value.errno == number


def test_errors_of_the_storage_pass_while_an_archive_is_checked() -> None:
    """They may begin after the first bytes; `archives` must not take them for damage."""
    whole = written({"a": torch.ones(10**5)})

    class Failing(io.BytesIO):
        name, mode = "", "rb"

        def read(self, size: int | None = -1) -> bytes:
            if self.tell() < 2**15 and size != 2:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().read(size)

    with pytest.raises(OSError) as error:
        archives.refuse_unsound(Failing(whole), len(whole))
    assert error.value.errno == errno.EIO


def test_a_record_that_is_cut_off_is_refused() -> None:
    """The file was cut after it was described."""
    whole = written({"a": torch.ones(1000)})
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        start = archive.getinfo("archive/data/0").header_offset
    ends = [len(whole), start + 100, start]
    saved = SavedFile(lambda first, stop: whole[: ends[0]][first:stop], len(whole))
    for end in ends[1:]:
        ends[0] = end
        with pytest.raises(ValueError, match=r"is (cut off|missing)"):
            saved.loaded(saved.content)


def test_a_table_of_contents_that_lies_is_refused() -> None:
    end = struct.Struct("<4s4H2LH").pack(b"PK\x05\x06", 0, 0, 1, 1, 2**31, 0, 0)
    assert "table of contents" in reason(b"PK" + b"\0" * 100 + end)
