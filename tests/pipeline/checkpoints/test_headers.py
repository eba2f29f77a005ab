import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from pipeline.checkpoints.headers import TensorFacts, read_header


def reader(content: bytes):
    return lambda start, stop: content[start:stop]


def test_a_header_tells_shapes_dtypes_and_the_files_size():
    content = save({"a": np.zeros((2, 3), np.float32), "b": np.zeros((), np.int64)})
    header = read_header(reader(content))
    assert header.tensors == {"a": TensorFacts("F32", (2, 3)), "b": TensorFacts("I64", ())}
    assert header.size == len(content)


def test_metadata_is_no_tensor():
    content = save({"a": np.zeros(1, np.float32)}, metadata={"format": "pt"})
    assert set(read_header(reader(content)).tensors) == {"a"}


def test_a_header_longer_than_the_first_read_is_read_in_two():
    many = {f"layer.{i}.weight": np.zeros(1, np.float32) for i in range(2000)}
    content, reads = save(many), []

    def read(start: int, stop: int) -> bytes:
        reads.append((start, stop))
        return content[start:stop]

    assert len(read_header(read).tensors) == 2000
    assert len(reads) == 2
    assert reads[0][1] == reads[1][0]


@pytest.mark.parametrize(
    "content",
    [
        b"", b"1234567", bytes(100), b"\xff" * 100, b"PK\x03\x04" + bytes(100),
        (500).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"[]",
        (9).to_bytes(8, "little") + b'{"a": {}}',
        (8).to_bytes(8, "little") + b'{"a": 1}',
    ],
)  # fmt: skip
def test_what_is_no_header_is_refused(content):
    with pytest.raises((ValueError, EOFError)):
        read_header(reader(content))


@pytest.mark.parametrize(
    "tensor",
    [
        {"shape": [-2, 3]}, {"shape": [2**64, 2**64]}, {"shape": [2**40, 2**40]},
        {"shape": [1e400]},
        {"shape": [2.0, 3]}, {"shape": [True]}, {"shape": "ab"}, {"shape": None},
        {"data_offsets": [0, 1e400]}, {"data_offsets": [24, 0]}, {"data_offsets": [-8, 24]},
        {"data_offsets": [0]},
    ],
)  # fmt: skip
def test_shapes_and_offsets_that_no_file_can_have_are_refused(tensor):
    header = json.dumps({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]} | tensor})
    with pytest.raises(ValueError, match="not what safetensors writes"):
        read_header(reader(len(header).to_bytes(8, "little") + header.encode()))


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_raise_anything_else(content, framed):
    if framed:
        content = len(content).to_bytes(8, "little") + content
    try:
        header = read_header(reader(content))
    except (ValueError, EOFError):
        return
    assert isinstance(json.loads(content[8 : header.size]), dict) or not header.tensors
