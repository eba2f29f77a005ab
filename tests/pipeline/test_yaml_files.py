"""YAML files are read within limits, and every fault is a sentence with its place."""

import os
import random
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import dump_yaml, flow_yaml, load_analysis, parse_yaml, read_yaml
from pipeline.config.yaml_files import MOST_BYTES, MOST_DEPTH, MOST_VALUES
from pipeline.errors import InputError
from pipeline.training import load_training
from tests.fuzz.analyses import BOMB, mutated


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("off", "off"), ("no", "no"), ("true", True), ("False", False), ("1e5", 1e5),
        ("1e-3", 0.001), ("1.", 1.0), ("-.5", -0.5), ("017", "017"), ("0o17", 15), ("0x1F", 31),
        ("1_000", 1000), ("1:30", "1:30"), ("2026-01-31", "2026-01-31"), ("2026-13-45",) * 2,
        ("~", None), ("", None), ("null", None), ("'1'", "1"), ("!!str 1", "1"), ("-0", 0),
        ("0b1", "0b1"), ("[on, y]", ["on", "y"]), ("{off: 1}", {"off": 1}),
    ],
)  # fmt: skip
def test_values_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    found = parse_yaml(text, "text")
    assert found == value and type(found) is type(value)


FAULTY = {
    "a: !!int abc": "line 1, column 4: is not valid YAML ('abc' is no usable number)",
    "a: !!python/object:os.system x": "could not determine a constructor for the tag",
    "a: !!binary x": "could not determine a constructor",
    "a: !!bool 3": "'3' is neither true nor false",
    "a: " + "9" * 5000: "(5,000 characters)' is no usable number",
    "a: 1\nb: 2\na: 3": "line 3, column 1: is not valid YAML (the key 'a' is given twice, lines 1",
    "a: {b: {c: 1, c: 2}}": "the key 'c' is given twice",
    "x: &x {k: 1}\ny: {<<: *x, k: 2}": "the key 'k' is given twice, lines 1 and 2",
    "x: &x {k: 1}\ny: {<<: [*x, *x]}": "the key 'k' is given twice",
    "x: &x {k: 1}\ny: {<<: *x, <<: *x}": "'<<' is given twice",
    "y: {<<: 3}": "merges something that is no mapping",
    "1: x": "the key '1' is no text",
    "true: x": "the key 'true' is no text",
    "? [a]\n: x": "is no text",
    "a: [b": "line 1, column 6: is not valid YAML (while parsing a flow sequence expected",
    "a: b: c": "line 1, column 5: is not valid YAML (mapping values are not allowed here)",
    "a:\n\t- b": "line 2, column 1: is not valid YAML (while scanning for the next token found",
    "a: *b": "found undefined alias 'b'",
    "a: &a [*a]": "an alias stands within the value",
    "a: 1\n---\nb: 2": "line 2, column 1: is not valid YAML (expected a single document",
    "a: \x07": "line 1: is not valid YAML (it holds the character '\\x07')",
    'a: "\\UFFFFFFFF"': "is not valid YAML",
    'a: "\\uD800"': "half of a surrogate pair",
    "": "is empty",
    "# only a comment\n": "is empty",
    "3": "holds int, expected keys",
    "a: " + "[" * 90_000: f"nested more than {MOST_DEPTH} deep",
    "a: " + "{b: " * 9_000: f"nested more than {MOST_DEPTH} deep",
    "- " * 9_000: f"nested more than {MOST_DEPTH} deep",
    BOMB: f"more than {MOST_VALUES:,} values",
    "a: 1\n" * 12_000: f"more than {MOST_VALUES:,} values",
}


@pytest.mark.parametrize(("text", "says"), FAULTY.items(), ids=lambda text: ascii(text[:30]))
def test_a_fault_is_one_sentence_with_its_place(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    started = time.process_time()  # whatever else the machine does
    with pytest.raises(InputError) as caught:
        read_yaml(file)
    assert says in str(caught.value) and str(caught.value).startswith(str(file))
    assert len(caught.value.lines) == 1 and len(str(caught.value)) < 500
    assert time.process_time() - started < 10


def test_only_a_regular_file_of_limited_size_is_read(tmp_path: Path) -> None:
    """Refuse a pipe, a device, a folder, other encodings and sizes, without reading them."""
    file = tmp_path / "a.yaml"
    os.mkfifo(tmp_path / "pipe")
    others = {
        tmp_path / "pipe": "is a named pipe", Path("/dev/zero"): "is a device",
        tmp_path: "is a folder",
    }  # fmt: skip
    for other, what in others.items():
        for load in (load_analysis, load_training):
            with pytest.raises(InputError, match=what):
                load(other)
    with file.open("wb") as stream:
        stream.truncate(10**9)
    tracemalloc.start()
    with pytest.raises(InputError, match=f"1,000,000,000 bytes, expected at most {MOST_BYTES:,}"):
        load_analysis(file)
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()
    for encoding in ("utf-16", "utf-32", "latin-1"):
        file.write_bytes("é: 1".encode(encoding))
        with pytest.raises(InputError, match="no UTF-8 text"):
            read_yaml(file)
    file.write_bytes("é: 1".encode("utf-8-sig"))
    assert read_yaml(file) == {"é": 1}
    with pytest.raises(InputError, match="neither such a file"):
        load_analysis("a\0b")


json_values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**63), st.text(max_size=20),
        st.floats(allow_nan=False, allow_infinity=False),
        st.sampled_from(["1e5", "0o17", "017", "on", "~", "<<", "- a", "a: b", "\n", "é", "😀"]),
    ),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.text(max_size=9), json_values, min_size=1, max_size=4))
def test_what_is_written_is_read_again(content: dict[str, Any]) -> None:
    text = dump_yaml(content)
    assert parse_yaml(text, "text") == content
    assert text.replace("\n", "").isprintable()


@given(json_values)
def test_a_value_on_one_line_is_read_again(value: Any) -> None:
    line = flow_yaml(value)
    assert parse_yaml(f"key: {line}\nnext: 1\n", "text") == {"key": value, "next": 1}
    assert line.isprintable()


def test_no_mutated_analysis_ends_in_a_traceback(tmp_path: Path) -> None:
    """Load seeded mutations: each is an analysis or sentences that hold no secret."""
    file, source = tmp_path / "a.yaml", random.Random(15)
    refused = 0
    for number in range(150):
        file.write_bytes(mutated(source))
        try:
            load_analysis(file)
        except InputError as error:
            refused += 1
            assert error.lines and "SECRET" not in str(error), number
    assert refused > 75
