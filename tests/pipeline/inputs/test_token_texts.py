"""Texts of tokens: from tokenizers of both kinds, through a store, and ids where there is none."""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pipeline.analysis.inputs import load_input, make_input, save_input
from pipeline.config import RepeatedInput, TableInput, TextInput
from pipeline.inputs import text
from pipeline.inputs.token_texts import texts_of
from pipeline.models.facts import ModelFacts
from pipeline.query.token_texts import shown, token_texts
from pipeline.store import Store

FACTS = ModelFacts(2, 2, 2, 4, 8, 300, 64, (), "test", None, ())


def stored(tmp_path: Path, spec, run: Path) -> tuple[Store, dict]:
    store = Store(str(tmp_path / "s.zarr"))
    store.create_or_open({"checkpoints": "x"})
    made = make_input("text", spec, str(run), FACTS)
    save_input(store, made)
    assert load_input(store, "text", made.digest).digest == made.digest
    return store, made.description()


def test_byte_level_texts_join_to_the_text_that_was_read(tmp_path):
    tokenizer = text.train_tokenizer(["the cat and the hat\x00\n" * 20], 264)
    tokenizer.save_pretrained(tmp_path / "run")
    (tmp_path / "t.txt").write_text("the hat and the cat, the\n\tmat\x00" * 3)
    spec = TextInput(path=str(tmp_path / "t.txt"), sequences=2, length=10)
    store, about = stored(tmp_path, spec, tmp_path / "run")
    found = token_texts(store, about)
    whole = "".join(text for row in found for text in row)
    assert (tmp_path / "t.txt").read_text().startswith(whole) and len(whole) > 20
    assert any(one.startswith(" ") for row in found for one in row)


def test_a_space_of_sentencepiece_is_kept():
    vocabulary = {"<unk>": 0, "▁the": 1, "▁": 2, "re": 3}
    made = Tokenizer(models.Unigram([(piece, 0.0) for piece in vocabulary], unk_id=0))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made)
    assert tokenizer.decode([1]) == "the"  # what the tokenizer alone would show
    assert texts_of(np.array([[1, 3], [2, 9]]), tokenizer) == {1: " the", 2: " ", 3: "re"}


def test_ids_stand_for_the_texts_of_a_run_without_tokenizer(tmp_path):
    store, about = stored(tmp_path, RepeatedInput(block_length=6, sequences=2), tmp_path)
    tokens = store.load_input("text", about["digest"])[0]
    assert token_texts(store, about) == [[str(id_) for id_ in row] for row in tokens.tolist()]
    assert shown(np.array([[1, 2]]), {2: "\x00"}) == [["1", "\x00"]]


def test_the_sign_of_a_table_is_no_residue(tmp_path):
    spec = TableInput(p=5, operation="add", train_share=0.4, split_seed=1)
    store, about = stored(tmp_path, spec, tmp_path)
    assert token_texts(store, about)[7] == ["1", "2", "="]  # pair 7 is 1 + 2
