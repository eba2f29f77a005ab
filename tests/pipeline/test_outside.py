"""The gate for files from outside: what it refuses, and that it names the file and the reason."""

import json
import os
import time
from pathlib import Path

import pytest
import torch

from pipeline.analysis.memory import memory_errors
from pipeline.errors import CheckpointError, InputError
from pipeline.outside import content_of, is_whole, json_object, opened, parsed_json, reading


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a": 1, "b": 2, "a": 3}', "the key 'a' twice"),
        ('{"a": 1e400}', "1e400, which is not a finite number"),
        ('{"a": [NaN]}', "NaN, which is not a finite number"),
        ('{"a": -Infinity}', "-Infinity, which is not"),
        ('{"a": ' + "9" * 5000 + "}", "an integer of 5000 digits"),
        ('{"a": "\\ud800"}', "text that is not UTF-8"),
        ('{"a": "\xff"}', "text that is not UTF-8"),
        ('{"a": ', "Expecting value"),
        ("", "Expecting value"),
    ],
)
def test_json_that_is_not_sound_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parsed_json(text.encode("latin-1"))


def test_sound_json_is_what_python_reads() -> None:
    value = {"a": [1, 2.5, None, True, "é\u20ac"], "long": 10**30, "b": {"a": {}}}
    assert parsed_json(json.dumps(value).encode()) == value
    assert parsed_json(json.dumps(value, ensure_ascii=False).encode()) == value


def test_an_object_names_its_file_and_the_key_that_is_wrong() -> None:
    infinite = b'{"time_step_limit": [0.0, Infinity], "inner": {"eps": NaN}}'
    with pytest.raises(InputError, match=r"^c.json: has eps = nan, which is not a finite number"):
        json_object(infinite, "c.json", InputError, infinite=("time_step_limit",))
    sound = b'{"time_step_limit": [0.0, Infinity]}'
    found = json_object(sound, "c.json", InputError, infinite=("time_step_limit",))
    assert found == {"time_step_limit": [0.0, float("inf")]}
    deep = b'{"a":' * 70 + b"1" + b"}" * 70
    with pytest.raises(CheckpointError, match=r"^c.json: is nested more than 64 levels deep"):
        json_object(deep, "c.json", CheckpointError)
    with pytest.raises(CheckpointError, match=r"^c.json: holds no JSON object but a list"):
        json_object(b"[]", "c.json", CheckpointError)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    for name, what in {
        "pipe": "is a named pipe", "folder": "is a folder", "loop": "cannot be read",
        "absent": "cannot be read", "nul\0": "cannot be read", "x" * 300: "cannot be read",
    }.items():  # fmt: skip
        started = time.monotonic()
        with pytest.raises(InputError, match=what), opened(tmp_path / name, InputError):
            pass
        assert time.monotonic() - started < 60  # else for ever
    with pytest.raises(CheckpointError, match="/dev/zero: is a device"):
        content_of("/dev/zero", CheckpointError)


def test_a_refused_file_leaves_no_descriptor_open(tmp_path: Path) -> None:
    before = len([*Path("/proc/self/fd").iterdir()])
    for _ in range(20):
        with pytest.raises(InputError), opened(tmp_path, InputError):
            pass
    assert len([*Path("/proc/self/fd").iterdir()]) == before


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.touch()
    os.truncate(large, 10**11)  # sparse
    with pytest.raises(InputError, match="has 100,000,000,000 bytes, expected at most 20,971,520"):
        content_of(large, InputError)


class _Panic(BaseException):
    """A panic, as libraries written in Rust raise it."""


_Panic.__name__ = "PanicException"


@pytest.mark.parametrize("error", [KeyError("x"), RecursionError("deep"), _Panic("index"),
                                   MemoryError(), AttributeError("no")])  # fmt: skip
def test_an_unexpected_error_names_the_file_and_keeps_its_cause(error: BaseException) -> None:
    refused = pytest.raises(CheckpointError, match=r"^step-1/x: cannot be read \(")
    with refused as caught, reading("step-1/x"):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [OSError(5, "I/O error"), InputError("said"),
                                   CheckpointError("said"), KeyboardInterrupt()])  # fmt: skip
def test_what_may_pass_and_what_is_said_already_stay_as_they_are(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, reading("step-1/x"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    "said",
    [
        "[enforce fail] DefaultCPUAllocator: can't allocate memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    ],
)
def test_memory_errors_stay_retryable_where_that_is_asked_for(said: str) -> None:
    error = RuntimeError(said)
    with pytest.raises(MemoryError), memory_errors():
        raise error
    with pytest.raises(RuntimeError), reading("x", passing=(OSError, MemoryError)):
        raise error
    with pytest.raises(CheckpointError), reading("x"):
        raise error


def test_an_error_that_is_none_of_memory_stays_as_it_is() -> None:
    for error in (RuntimeError("CUDA error: an illegal memory access"), torch.OutOfMemoryError("")):
        with pytest.raises(type(error)) as caught, memory_errors():
            raise error
        assert caught.value is error


def test_booleans_are_no_integers() -> None:
    assert is_whole(3) and is_whole(0) and not is_whole(True)
    assert not is_whole(-1) and not is_whole(2**63) and not is_whole(1.0) and not is_whole("1")
