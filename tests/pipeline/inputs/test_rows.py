"""Rows of data sets: written by the libraries that write them, damaged, and read no further."""

import gzip
import json
import os
import random
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import InputError
from pipeline.inputs import rows
from pipeline.inputs.documents import Documents, files_of

SAVED = Path(__file__).parents[2] / "data" / "saved_dataset"
TEXTS = [f"document {n}: é\n\u2028 {n * n}" for n in range(300)]


def lines(values: Sequence[object] = TEXTS, key: str = "text") -> bytes:
    return b"".join(json.dumps({"id": 1, key: one}).encode() + b"\n" for one in values)


def zstd(path: Path, content: bytes) -> None:
    with pa.CompressedOutputStream(str(path), "zstd") as stream:
        stream.write(content)


WRITERS: dict[str, Callable[[Path], object]] = {
    "a.jsonl": lambda path: path.write_bytes(lines()),
    "b.jsonl": lambda path: pd.DataFrame({"text": TEXTS}).to_json(
        path, orient="records", lines=True
    ),
    "a.JSONL.gz": lambda path: path.write_bytes(gzip.compress(lines())),
    "a.json.gz": lambda path: path.write_bytes(gzip.compress(lines())),
    "a.jsonl.zst": lambda path: zstd(path, lines()),
    "a.parquet": lambda path: pd.DataFrame({"n": 1, "text": TEXTS}).to_parquet(path),
    "b.parquet": lambda path: pq.write_table(
        pa.table({"text": pa.array(TEXTS, pa.large_string()).dictionary_encode()}), path,
        row_group_size=7, compression="zstd",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_texts_come_back_as_they_were_written(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    assert list(rows.values(tmp_path / name, "text")) == TEXTS


def test_a_folder_of_the_library_is_read_in_its_order() -> None:
    files = files_of(SAVED)
    assert [file.name for file in files] == [f"data-0000{n}-of-00002.arrow" for n in range(2)]
    documents = Documents(files, "text")
    wanted = [f"document {n} says that {n} is {n}. " * (n % 3 + 1) for n in range(40) if n != 5]
    assert list(documents.texts()) == wanted
    assert documents.said() == (
        "39 documents of data-00000-of-00002.arrow to data-00001-of-00002.arrow "
        "(1 row without text skipped)"
    )
    ids = [value for file in files for value in rows.values(file, "input_ids")]
    assert ids[9] == list(range(2, 14)) and len(ids) == 40


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_only_the_beginning_is_read(tmp_path: Path, name: str) -> None:
    noise = random.Random(0)
    texts = [noise.randbytes(3000).hex() for _ in range(1000)]  # 6 MB
    path = tmp_path / name
    write = {
        "a.jsonl": lambda: path.write_bytes(lines(texts)),
        "a.jsonl.gz": lambda: path.write_bytes(gzip.compress(lines(texts), 1)),
        "a.jsonl.zst": lambda: zstd(path, lines(texts)),
        "a.parquet": lambda: pq.write_table(pa.table({"text": texts}), path, row_group_size=200),
    }
    write[name]()
    whole = path.read_bytes()
    # Damage all but the beginning and the last 64 kB, where Parquet keeps its description.
    kept, end = len(whole) // 3, len(whole) - 2**16
    path.write_bytes(whole[:kept] + b"\xff" * (end - kept) + whole[end:])
    with closing(rows.values(path, "text")) as each:
        assert list(islice(each, 100)) == texts[:100]
    with pytest.raises(InputError, match=rf"{name}: (line|row) [\d,]+"):
        list(rows.values(path, "text"))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", lines()[:-9], "a.jsonl: line 300: is not valid JSON"),
        ("a.jsonl", lines(["x"]) + b"\n \n[1]\n", "a.jsonl: line 4: holds no JSON object"),
        ("a.jsonl", b'{"text": "a", "text": "b"}\n', "line 1: is not valid JSON (it has the key"),
        ("a.jsonl", b'{"text": "\xff"}\n', "line 1: is not valid JSON"),
        ("a.jsonl", lines(["x"]) + b"[" * 9000, "line 2: is not valid JSON"),
        ("a.jsonl", lines(key="content"), "has no column 'text', but id, content: give the right"),
        ("a.jsonl.gz", gzip.compress(lines())[:-200], "cannot be read (EOFError"),
        ("a.jsonl.gz", lines(), "line 1: cannot be read (Not a gzipped file"),
        ("a.jsonl.zst", lines(), "line 1: cannot be read (ZSTD"),
        ("a.parquet", b"PAR1" + b"\0" * 99, "a.parquet: cannot be read (ArrowInvalid"),
        ("a.parquet", b"", "a.parquet: cannot be read (ArrowInvalid"),
        ("a.arrow", b"\0" * 99, "a.arrow: cannot be read"),
        ("a.arrow", b"", "a.arrow: cannot be read"),
    ],
)
def test_damage_is_a_sentence_with_its_place(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        list(rows.values(tmp_path / name, "text"))
    said = str(caught.value)
    assert says in said and "\n" not in said and said.startswith(str(tmp_path))


def test_an_arrow_file_that_is_cut_off_says_from_which_row(tmp_path: Path) -> None:
    whole = files_of(SAVED)[0].read_bytes()
    (tmp_path / "a.arrow").write_bytes(whole[:-1500])
    with pytest.raises(InputError, match=r"a.arrow: row 1: cannot be read"):
        list(rows.values(tmp_path / "a.arrow", "text"))


@pytest.mark.parametrize("name", ["a.arrow", "a.parquet"])
def test_no_damage_ends_the_process(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.arrow":
        path.write_bytes(files_of(SAVED)[0].read_bytes())
    else:
        pq.write_table(pa.table({"text": TEXTS}), path, row_group_size=50)
    whole, chance, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(chance.choice((1, 2, 8))):
            damaged[chance.randrange(len(whole))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            list(Documents([path], "text").texts())
        except InputError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)
            refused += 1
    assert refused > 50


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    for name in ("pipe.jsonl", "absent.parquet"):
        with pytest.raises(InputError, match=name):
            list(rows.values(tmp_path / name, "text"))


def test_a_line_without_end_is_not_read_into_memory(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.jsonl.gz", "wb", 1) as stream:
        for _ in range(70):
            stream.write(b" " * 2**20)
    with pytest.raises(InputError, match="line 1: has more than 67,108,864 bytes"):
        list(rows.values(tmp_path / "a.jsonl.gz", "text"))


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"_data_files": [{"filename": "../a.arrow"}]}, "names '../a.arrow' where a file"),
        ({"_data_files": [{"filename": "a.txt"}]}, "names 'a.txt'"),
        ({"_data_files": [7]}, "names None"),
        ({"_data_files": []}, "names no data files"),
        ({}, "names no data files"),
        ({"_data_files": 3}, "names no data files"),
        ({"_indices_data_files": [{"filename": "i.arrow"}]}, "save it again with save_to_disk"),
    ],
)
def test_a_state_that_leads_elsewhere_is_refused(tmp_path: Path, state: object, says: str) -> None:
    (tmp_path / "state.json").write_text(json.dumps(state))
    with pytest.raises(InputError, match=r"state.json: ") as caught:
        files_of(tmp_path)
    assert says in str(caught.value)


def test_folders_are_read_where_their_files_are_of_one_kind(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "notes.md", ".hidden.txt"):
        (tmp_path / name).write_text(name)
    assert [one.name for one in files_of(tmp_path)] == ["a.txt", "b.txt"]
    (tmp_path / "c.jsonl").write_bytes(lines())
    with pytest.raises(InputError, match=r"several kinds \(.jsonl, .txt\)"):
        files_of(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no texts or data set"):
        files_of(tmp_path / "empty")
    splits = tmp_path / "splits"
    (splits / "train").mkdir(parents=True)
    (splits / "train" / "state.json").write_text("{}")
    (splits / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(InputError, match=r"several splits: .* \(train\)"):
        files_of(splits)
    with pytest.raises(InputError, match="is an address, and texts"):
        files_of("hf://datasets/owner/name")


def test_rows_without_text_are_counted_and_not_searched_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(["a", None, 3, "", ["x"], "b"]))
    documents = Documents([path], "text")
    assert list(documents.texts()) == ["a", "b"]
    assert documents.said() == "2 documents (4 rows without text skipped)"
    path.write_bytes(b"\n" * 10_001)
    with pytest.raises(InputError, match=r"10,000 rows in succession .* has none"):
        list(Documents([path], "text").texts())
    path.write_bytes(lines([7] * 10_001))
    with pytest.raises(InputError, match=r"10,000 rows in succession .* type int"):
        list(Documents([path], "text").texts())
