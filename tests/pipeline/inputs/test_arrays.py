"""Token ids from files: the wanted part of an array, or one sentence."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.inputs.arrays import first_ids, layout_of


def read(path: Path, *wanted: int, dtype: str = "uint16") -> np.ndarray:
    return first_ids(path, layout_of(path, dtype), *wanted)


@given(
    st.integers(0, 7), st.integers(0, 7), st.integers(0, 9), st.integers(0, 9), st.booleans(),
    st.sampled_from(["int64", "uint16", ">i4", "int8", "uint64"]),
)  # fmt: skip
def test_the_wanted_part_is_that_of_numpy(tmp_path_factory, rows, columns, m, n, order, dtype):
    path = tmp_path_factory.mktemp("a") / "ids.npy"
    ids = np.arange(rows * columns).reshape(rows, columns).astype(dtype)
    np.save(path, np.asfortranarray(ids) if order else ids)
    part = read(path, m, n)
    assert part.dtype == np.int64 and np.array_equal(part, ids[:m, :n])


@pytest.mark.parametrize("wanted", [0, 3, 100])
def test_the_first_of_a_flat_file_are_read(tmp_path: Path, wanted: int) -> None:
    ids = np.arange(20, dtype=np.uint16)
    ids.tofile(tmp_path / "ids.bin")
    np.save(tmp_path / "ids.npy", ids)
    for name in ("ids.bin", "ids.npy"):
        assert np.array_equal(read(tmp_path / name, wanted), ids[:wanted])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (np.array([object()]), "holds 1-d object"),
        (np.zeros((2, 2)), "holds 2-d float64"),
        (np.zeros((2, 2, 2), int), "holds 3-d int64"),
        (np.array([True]), "holds 1-d bool"),
        (np.array(["a"]), "holds 1-d <U1"),
        (np.zeros(2, [("a", "i4"), ("b", "i4")]), "holds 1-d"),
        (np.full(3, 2**64 - 1, np.uint64), "holds the token id 18446744073709551615"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, content: np.ndarray, reason: str) -> None:
    np.save(tmp_path / "ids.npy", content, allow_pickle=True)
    with pytest.raises(InputError, match=f"ids.npy: {reason}"):
        read(tmp_path / "ids.npy", 2)


@pytest.mark.parametrize("shape", [b"(4, 80000000)", b"(-4, 8)", b"(4,,8)", b"((4, 8)", b"'x'"])
def test_a_shape_that_the_file_contradicts_is_refused(tmp_path: Path, shape: bytes) -> None:
    path = tmp_path / "ids.npy"
    np.save(path, np.zeros((4, 8), int))
    content = path.read_bytes()
    path.write_bytes(content.replace(b"(4, 8), }".ljust(len(shape) + 3), shape + b", }"))
    with pytest.raises(InputError, match=r"ids.npy: (has \d+ bytes, expected|cannot be read)"):
        read(path, 4, 8)


def test_a_flat_file_that_is_cut_within_a_number_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ids.bin").write_bytes(bytes(7))
    with pytest.raises(InputError, match="has 7 bytes, which is no multiple of the 2 of uint16"):
        read(tmp_path / "ids.bin", 2)


def test_a_pipe_and_a_file_of_100_gb_take_no_time(tmp_path: Path) -> None:
    started = time.monotonic()
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(InputError, match="is a named pipe"):
        read(tmp_path / "pipe.npy", 2)
    (tmp_path / "large.bin").touch()
    os.truncate(tmp_path / "large.bin", 100 * 10**9)
    assert read(tmp_path / "large.bin", 5).tolist() == [0] * 5
    assert time.monotonic() - started < 60  # minutes, if it were read
