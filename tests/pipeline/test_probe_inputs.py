"""Inputs that are made for one purpose: nulls, the paper's protocol, controlled matches, stops."""

import numpy as np
import pytest

from pipeline.config import MatchesInput, RepeatedInput, TextInput
from pipeline.data import text
from pipeline.inputs import STANDARD_INPUTS, make_input
from pipeline.models.loading import ModelFacts


def model(vocabulary: int = 500, context: int | None = 128, bos: int | None = 0) -> ModelFacts:
    special = () if bos is None else (bos,)
    return ModelFacts(2, 2, 2, 4, 8, vocabulary, context, (), "test", bos, special)


def test_shuffled_is_the_repeated_input_without_its_order():
    repeated, shuffled = (
        make_input(name, STANDARD_INPUTS[name], "", model()) for name in ("repeated", "shuffled")
    )
    assert shuffled.kind == repeated.kind and shuffled.digest != repeated.digest
    np.testing.assert_array_equal(shuffled.tokens[:, :26], repeated.tokens[:, :26])
    np.testing.assert_array_equal(np.sort(shuffled.tokens), np.sort(repeated.tokens))
    assert (shuffled.tokens[:, 26:] != repeated.tokens[:, 26:]).mean() > 0.9


def test_the_papers_protocol_skips_the_commonest_and_rarest_ids():
    made = make_input("x", STANDARD_INPUTS["repeated_4x25"], "", model())
    assert made.tokens.shape == (32, 101) and (made.tokens[:, 0] == 0).all()
    drawn = made.tokens[:, 1:]
    assert drawn.min() >= 10 and drawn.max() < 490  # 2% of 500 ids at either end
    blocks = drawn.reshape(32, 4, 25)
    assert (blocks == blocks[:, :1]).all()


def test_nothing_is_skipped_unless_asked_for():
    spec = RepeatedInput(block_length=20, sequences=40)
    made = make_input("x", spec, "", model(vocabulary=21))
    assert set(made.tokens[:, 1:].ravel()) == set(range(1, 21))


def test_matches_carry_where_their_successors_are():
    made = make_input("matches", MatchesInput(), "", model())
    assert made.kind == "matches" and made.attributes["longest"] == 8
    sequence, position = np.nonzero(made.arrays["length"])
    successor = made.arrays["successor"][sequence, position]
    following = made.tokens[sequence, position + 1]
    np.testing.assert_array_equal(made.tokens[sequence, successor], following)


@pytest.mark.parametrize("context", [58, 64])
def test_matches_fit_the_context_of_the_organisms(context):
    made = make_input("matches", MatchesInput(), "", model(vocabulary=64, context=context))
    assert made.tokens.shape == (64, 58)


def test_text_knows_its_full_stops(tmp_path):
    sample = "One. Two. Three .\n" * 20
    tokenizer = text.train_tokenizer([sample], 265)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "sample.txt").write_text(sample)
    spec = TextInput(path=str(tmp_path / "sample.txt"), sequences=2, length=16)
    made = make_input("text", spec, str(tmp_path), model())
    stops = np.isin(made.tokens, made.attributes["full_stop_ids"])
    decoded = [[tokenizer.decode([i]) for i in row] for row in made.tokens.tolist()]
    np.testing.assert_array_equal(stops, np.char.strip(np.array(decoded)) == ".")
    assert stops.any()
