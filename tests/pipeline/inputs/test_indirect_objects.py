"""Prompts about indirect objects: the positions of names, and the changes in corrupted prompts."""

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.inputs import text
from pipeline.inputs.indirect_objects import NAMES, PLACES, TEMPLATES, THINGS, prompts, whole_names


@pytest.fixture(scope="module")
def tokenizer():
    """Train a tokenizer on some of the names, often, and on the rest of the sentences."""
    sentences = [
        template.format(first=name, second="Tom", giver=name, place=place, thing=thing)
        for name in NAMES[:9]
        for template in TEMPLATES
        for place, thing in zip(PLACES, THINGS, strict=True)
    ]
    return text.train_tokenizer(sentences, 390)


def test_the_subject_is_named_twice_and_the_other_once(tokenizer):
    made = prompts(tokenizer, 40, 7, seed=0)
    assert (made.clean[:, 0] == 7).all()
    words = [tokenizer.decode(row[1:]) for row in made.clean]
    names = {of: name for name, of in whole_names(tokenizer).items()}
    givers_first = 0
    for row, said in enumerate(words):
        giver, other = names[made.subject[row]], names[made.indirect_object[row]]
        assert giver != other and said.count(f" {giver}") == 2 and said.count(f" {other}") == 1
        assert said.endswith(" to")
        assert made.clean[row, made.indirect_object_at[row]] == made.indirect_object[row]
        assert (made.clean[row, made.subject_at[row]] == made.subject[row]).all()
        givers_first += said.index(giver) < said.index(other)
    assert 8 < givers_first < 32
    assert len(set(words)) > 30


def test_corrupted_prompts_name_the_other_giver_and_nothing_else(tokenizer):
    made = prompts(tokenizer, 40, None, seed=1)
    changed = made.clean != made.corrupted
    np.testing.assert_array_equal(changed.sum(axis=1), 1)
    np.testing.assert_array_equal(np.nonzero(changed)[1], made.subject_at[:, 1])
    np.testing.assert_array_equal(made.corrupted[changed], made.indirect_object)
    # Tokenised anew, the corrupted sentence is what the swap of one token has made of it.
    for row in made.corrupted:
        assert tokenizer(tokenizer.decode(row))["input_ids"] == row.tolist()


def test_a_tokenizer_without_names_is_refused():
    with pytest.raises(InputError, match="for 0 of 30 names, expected at least 2"):
        prompts(text.train_tokenizer(["0123456789 " * 9], 260), 2, None, 0)
