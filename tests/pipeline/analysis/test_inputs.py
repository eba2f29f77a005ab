"""Inputs are made once, identified by their content, and refused where they do not fit."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.analysis.inputs import load_input, make_input, save_input
from pipeline.config import ArrayInput, InputSpec, RepeatedInput, TableInput
from pipeline.errors import InputError
from pipeline.inputs import Input
from pipeline.models.facts import ModelFacts
from pipeline.store import Store


def model(vocabulary: int = 50, context: int | None = 64, bos: int | None = None) -> ModelFacts:
    special = () if bos is None else (bos,)
    return ModelFacts(2, 2, 2, 4, 8, vocabulary, context, (), "test", bos, special)


def built_input(spec: InputSpec, folder: Path, facts: ModelFacts | None = None) -> Input:
    return make_input("probe", spec, str(folder), facts or model())


def test_repeated_tokens_begin_with_bos_and_repeat_one_block(tmp_path: Path) -> None:
    spec = RepeatedInput(block_length=6, repeats=3, sequences=5, vary=False)
    found = built_input(spec, tmp_path, model(bos=7))
    assert found.tokens.shape == (5, 19)
    assert (found.tokens[:, 0] == 7).all()
    blocks = found.tokens[:, 1:].reshape(5, 3, 6)
    assert (blocks == blocks[:, :1]).all()
    assert all(len(set(block)) == 6 and 7 not in block for block in blocks[:, 0].tolist())
    assert found.attributes["has_bos"] is True


def test_a_model_without_bos_gets_none(tmp_path: Path) -> None:
    found = built_input(RepeatedInput(block_length=6, sequences=2), tmp_path)
    assert found.tokens.shape == (2, 12)
    assert found.attributes["has_bos"] is False


def test_the_digest_follows_the_content_and_not_the_name(tmp_path: Path) -> None:
    first, again, other = (
        built_input(RepeatedInput(block_length=6, seed=seed), tmp_path) for seed in (0, 0, 1)
    )
    renamed = Input("other", first.kind, first.tokens, first.arrays, first.attributes)
    assert first.digest == again.digest == renamed.digest
    assert first.digest != other.digest
    split = Input("t", "table", first.tokens, {"is_train": np.array([True])})
    assert split.digest != Input("t", "table", first.tokens, {"is_train": np.array([False])}).digest


def test_an_input_comes_back_from_the_store_with_the_same_digest(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "s.zarr"))
    store.create_or_open({"checkpoints": "x"})
    before = built_input(TableInput(p=5, operation="add", train_share=0.4, split_seed=1), tmp_path)
    save_input(store, before)
    after = load_input(store, before.name, before.digest)
    assert after.digest == before.digest
    assert after.attributes == before.attributes
    np.testing.assert_array_equal(after.arrays["is_train"], before.arrays["is_train"])


def test_arrays_are_read_flat_or_in_rows(tmp_path: Path) -> None:
    ids = np.arange(40, dtype=np.uint16)
    ids.tofile(tmp_path / "flat.bin")
    np.save(tmp_path / "rows.npy", ids.reshape(4, 10))
    flat = built_input(ArrayInput(path=str(tmp_path / "flat.bin"), sequences=3, length=8), tmp_path)
    rows = built_input(ArrayInput(path=str(tmp_path / "rows.npy"), sequences=3, length=8), tmp_path)
    np.testing.assert_array_equal(flat.tokens, ids[:24].reshape(3, 8))
    np.testing.assert_array_equal(rows.tokens, ids.reshape(4, 10)[:3, :8])
    assert flat.tokens.dtype == rows.tokens.dtype == np.int64


@pytest.mark.parametrize(
    ("array", "spec", "says"),
    [
        (np.arange(10), {"length": 8, "sequences": 2}, ["10 tokens", "16"]),
        (np.arange(60), {"length": 60, "sequences": 1}, ["token id 59", "vocabulary has 50"]),
        (np.zeros(99, int), {"length": 99, "sequences": 1}, ["99 tokens", "context is 64"]),
        (np.zeros(9), {"length": 8, "sequences": 1}, ["float64", "integer token ids"]),
        (np.zeros((2, 4), int), {"length": 8, "sequences": 2}, ["2 sequences of 4 tokens"]),
        (np.array([-1] * 8), {"length": 8, "sequences": 1}, ["token id -1"]),
    ],
)
def test_what_does_not_fit_is_refused_with_both_numbers(
    tmp_path: Path, array: np.ndarray, spec: dict[str, int], says: list[str]
) -> None:
    np.save(tmp_path / "ids.npy", array)
    with pytest.raises(InputError) as caught:
        built_input(ArrayInput(path=str(tmp_path / "ids.npy"), **spec), tmp_path)  # type: ignore[arg-type]
    for part in says:
        assert part in str(caught.value)


def test_a_table_that_nothing_describes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"p, operation, train_share, split_seed not given"):
        built_input(TableInput(), tmp_path)
