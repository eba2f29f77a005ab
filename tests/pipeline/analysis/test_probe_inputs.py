"""Inputs that are made for one purpose: nulls, the paper's protocol, controlled matches, stops."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from pipeline import training
from pipeline.analysis.inputs import STANDARD_INPUTS, make_input
from pipeline.config import MatchesInput, RepeatedInput, TextInput
from pipeline.errors import InputError
from pipeline.inputs import text
from pipeline.models.facts import ModelFacts, facts_of


def model(vocabulary: int = 500, context: int | None = 128, bos: int | None = 0) -> ModelFacts:
    special = () if bos is None else (bos,)
    return ModelFacts(2, 2, 2, 4, 8, vocabulary, context, (), "test", bos, special)


def test_shuffled_is_the_repeated_input_without_its_order():
    repeated, shuffled = (
        make_input(name, STANDARD_INPUTS[name], "", model()) for name in ("repeated", "shuffled")
    )
    assert shuffled.kind == repeated.kind and shuffled.digest != repeated.digest
    lengths = repeated.arrays["block_length"].tolist()
    assert lengths == shuffled.arrays["block_length"].tolist() and set(lengths) == {*range(13, 26)}
    for n, one, other in zip(lengths, repeated.tokens, shuffled.tokens, strict=True):
        np.testing.assert_array_equal(other[: n + 1], one[: n + 1])
        np.testing.assert_array_equal(np.sort(other[n + 1 : 2 * n + 1]), np.sort(one[1 : n + 1]))
        assert (other[n + 1 : 2 * n + 1] != one[n + 1 : 2 * n + 1]).mean() > 0.6


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


def _tokenizer(folder, words, bos=None):
    """Make a tokenizer of these words, with its files in a folder."""
    vocabulary = {word: i for i, word in enumerate(words)}
    of_words = Tokenizer(WordLevel(vocabulary, unk_token=words[0]))
    of_words.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=of_words, **({} if bos is None else {"bos_token": bos})
    ).save_pretrained(folder)


DRAWING = ("repeated", "shuffled", "repeated_4x25", "matches")


@pytest.mark.parametrize("name", DRAWING)
def test_ids_are_those_of_the_runs_tokenizer(tmp_path, name):
    _tokenizer(tmp_path / "step-0", [f"w{i}" for i in range(64)], bos="w5")
    made = make_input(name, STANDARD_INPUTS[name], str(tmp_path), model(vocabulary=128, bos=None))
    assert made.tokens.max() < 64 and 5 not in made.tokens
    assert made.attributes["drawn_from"].startswith("the 63 ids of the run's tokenizer")


@pytest.mark.parametrize("name", DRAWING)
def test_ids_are_those_of_a_given_range_before_all_else(tmp_path, name):
    _tokenizer(tmp_path, [f"w{i}" for i in range(128)])
    spec = STANDARD_INPUTS[name].model_copy(update={"ids": (10, 74)})
    made = make_input(name, spec, str(tmp_path), model(vocabulary=128, bos=None))
    assert made.tokens.min() >= 10 and made.tokens.max() < 74
    assert made.attributes["drawn_from"] == "ids 10 to 73, as given"
    outside = spec.model_copy(update={"ids": (0, 129)})
    with pytest.raises(InputError, match=rf"input '{name}': ids: \[0, 129\].*128"):
        make_input(name, outside, str(tmp_path), model(vocabulary=128, bos=None))


def test_without_a_tokenizer_the_training_file_or_a_guess_decides(tmp_path):
    facts = model(vocabulary=128, bos=None)
    guessed = make_input("repeated", STANDARD_INPUTS["repeated"], str(tmp_path), facts)
    assert guessed.tokens.max() > 64
    assert "no tokenizer beside the checkpoints" in guessed.attributes["drawn_from"]
    assert "as a guess" in guessed.attributes["drawn_from"]
    preset = Path(training.__file__).parent / "presets" / "induction.yaml"
    (tmp_path / "training.yaml").write_text(preset.read_text())
    known = make_input("repeated", STANDARD_INPUTS["repeated"], str(tmp_path), facts)
    assert known.tokens.max() < 64 and "training.yaml" in known.attributes["drawn_from"]
    (tmp_path / "tokenizer.json").write_text("{}")
    broken = make_input("x", RepeatedInput(ids=None), str(tmp_path), facts)
    assert broken.tokens.max() < 64


def test_a_tokenizer_with_more_ids_than_the_model_has_rows_is_named(tmp_path):
    _tokenizer(tmp_path, ["a", *(f"w{i}" for i in range(13))])
    (tmp_path / "text.txt").write_text("w12 " * 8)
    spec = TextInput(path=str(tmp_path / "text.txt"), sequences=1, length=2)
    with pytest.raises(InputError, match="the run's tokenizer has 14 ids, the model 10 rows"):
        make_input("text", spec, str(tmp_path), model(vocabulary=10, bos=None))
    made = make_input("x", RepeatedInput(block_length=8), str(tmp_path), model(10, bos=None))
    assert made.tokens.max() < 10
    assert "the tokenizer has 14 ids, the model 10 rows" in made.attributes["drawn_from"]


def test_bos_is_what_the_runs_files_name_and_not_the_librarys_default(tmp_path):
    config = {"model_type": "gpt_neox", "hidden_size": 8, "num_hidden_layers": 1,
              "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 40}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    facts = facts_of(tmp_path)  # the class's own default is 0
    assert facts.bos_token_id is None and facts.special_token_ids == ()
    assert not make_input("x", RepeatedInput(), str(tmp_path), facts).attributes["has_bos"]
    _tokenizer(tmp_path, [f"w{i}" for i in range(40)], bos="w7")
    assert facts_of(tmp_path).bos_token_id == 7
    (tmp_path / "generation_config.json").write_text(json.dumps({"bos_token_id": 3}))
    assert facts_of(tmp_path).bos_token_id == 3
    (tmp_path / "config.json").write_text(json.dumps(config | {"bos_token_id": 2}))
    assert facts_of(tmp_path).bos_token_id == 2
    # A tokenizer beside the run's folder, not in the checkpoint's, names it too.
    bare = replace(facts, bos_token_id=None)
    (tmp_path / "config.json").unlink()
    (tmp_path / "generation_config.json").unlink()
    assert (make_input("x", RepeatedInput(), str(tmp_path), bare).tokens[:, 0] == 7).all()
