"""Facts about tokens, against hand counts and the measure that counts bigrams too."""

import numpy as np
import pytest
import torch

from pipeline.aggregate.token_features import token_features
from pipeline.measures.bigrams import BigramTable


def test_repetition_of_a_hand_made_sequence() -> None:
    #        1 2 3 2 3 1 1 2 1 4 ; predicted from the second on
    tokens = np.array([[1, 2, 3, 2, 3, 1, 1, 2, 1, 4], [4, 4, 4, 1, 2, 3, 4, 1, 2, 0]])
    found = token_features(tokens)["repetition"].values
    assert found[0].tolist() == [0, 0, 1, 2, 1, 1, 2, 1, 0]
    assert found[1].tolist() == [1, 2, 0, 0, 0, 1, 2, 2, 0]


def test_counts_in_a_corpus_are_those_of_the_measure_bigrams() -> None:
    rng = np.random.default_rng(0)
    tokens, corpus = rng.integers(0, 11, (4, 9)), rng.integers(0, 9, (6, 20))
    found = token_features(tokens, vocabulary=11, corpus=corpus, smoothing=3.0)
    table = BigramTable.of(torch.from_numpy(corpus), 11, 3.0)
    np.testing.assert_allclose(
        found["log_frequency"], table.unigrams.log().numpy()[tokens[:, 1:]], rtol=1e-6
    )
    # That table divides by all counts of a row, which are those of its token as a first one.
    rows = table.bigrams(torch.from_numpy(tokens[:, :-1].ravel()))
    chosen = rows[torch.arange(len(rows)), torch.from_numpy(tokens[:, 1:].ravel())]
    np.testing.assert_allclose(found["bigram_loss"].values.ravel(), -chosen.log(), rtol=1e-5)
    assert found.attrs["counted_in"] == "a corpus"


def test_without_a_corpus_the_own_sequence_is_left_out() -> None:
    tokens = np.random.default_rng(1).integers(0, 5, (4, 8))
    found = token_features(tokens, smoothing=2.0)
    for own in range(4):
        others = np.delete(tokens, own, axis=0)
        expected = token_features(tokens[own : own + 1], vocabulary=5, corpus=others, smoothing=2.0)
        for name in ("log_frequency", "bigram_loss"):
            np.testing.assert_allclose(found[name][own], expected[name][0])


def test_units_and_definitions_are_given() -> None:
    found = token_features(np.zeros((2, 3), dtype=int))
    for name in found.data_vars:
        assert found[name].attrs["units"] in ("nats", "1")
        assert found[name].attrs["definition"].endswith(".")


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_ids_of_any_width_are_counted_without_overflow(dtype: type) -> None:
    tokens = np.array([[50_000, 50_001, 50_000, 50_001]], dtype=dtype).repeat(2, axis=0)
    found = token_features(tokens)
    assert found["repetition"].values[0].tolist() == [0, 1, 2]
    assert np.isfinite(found["bigram_loss"]).all()
