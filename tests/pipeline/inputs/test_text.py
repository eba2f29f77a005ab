import subprocess
import sys

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.inputs import text

CORPUS = [path.read_text() for path in text.standard_library(300_000)]


@pytest.fixture(scope="module")
def tokenizer():
    return text.train_tokenizer(CORPUS, 400)


@pytest.mark.slow
def test_the_standard_library_is_sorted_source_within_the_limit():
    files = text.standard_library(2_000_000)
    assert files == sorted(files) and len(files) > 50
    assert sum(path.stat().st_size for path in files) <= 2_000_000
    assert {path.suffix for path in files} == {".py"}
    assert not any({"test", "tests", "site-packages"} & set(path.parts) for path in files)
    assert text.standard_library(0) == []


def test_encoding_and_decoding_gives_the_text_back(tokenizer):
    sample = "def α(x):\n\treturn '\U0001f98e' + x  # ünïcode \x00\r\n"
    ids = text.tokenise_corpus([sample], tokenizer)
    assert ids[-1] == tokenizer.eos_token_id == 0 and len(tokenizer) == 400
    assert ids.dtype == np.int64 and ids.min() >= 0 and ids.max() < 400
    decoded = tokenizer.decode(ids[:-1], clean_up_tokenization_spaces=False)
    assert decoded == sample


def test_a_corpus_is_its_texts_with_an_end_after_each(tokenizer):
    ids = text.tokenise_corpus(["a = 1\n", "b"], tokenizer)
    first = text.ids_of("a = 1\n", tokenizer)
    assert np.array_equal(ids[: len(first)], first) and ids[len(first)] == 0
    assert tokenizer.decode(ids[len(first) + 1 :]) == "b" + text.END_OF_TEXT


@pytest.mark.slow
def test_training_is_the_same_in_another_process(tokenizer, tmp_path):
    program = (
        "import sys; from pipeline.inputs import text\n"
        "corpus = [path.read_text() for path in text.standard_library(300_000)]\n"
        "text.train_tokenizer(corpus, 400).save_pretrained(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path / "other"], check=True)
    tokenizer.save_pretrained(tmp_path / "mine")
    mine, other = ((tmp_path / name / "tokenizer.json").read_bytes() for name in ("mine", "other"))
    assert mine == other


def test_a_tokenizer_is_found_in_a_run_or_in_its_checkpoints(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "root")
    tokenizer.save_pretrained(tmp_path / "run" / "checkpoint-10")
    for place in (tmp_path / "root", tmp_path / "run"):
        assert text.load_tokenizer(place).get_vocab() == tokenizer.get_vocab()
        assert text.load_tokenizer(place).bos_token_id == 0


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(InputError, match="no tokenizer"):
        text.load_tokenizer(tmp_path)


def test_text_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match="latin: is not UTF-8"):
        text.read(tmp_path / "latin")
    with pytest.raises(InputError, match="absent: cannot be read"):
        text.read(tmp_path / "absent")


def test_vocabularies_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="at least 257"):
        text.train_tokenizer(CORPUS, 256)
    with pytest.raises(InputError, match="more text"):
        text.train_tokenizer(["abc"], 300)


def test_cutting_drops_the_remainder_alone():
    assert text.cut(np.arange(11), 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert text.cut(np.arange(3), 4).shape == (0, 4)


def test_the_held_out_part_is_the_end_of_the_stream():
    train, held_out = text.split_stream(np.arange(50), 0.1)
    assert train.tolist() == list(range(45)) and held_out.tolist() == list(range(45, 50))


def test_full_stops_are_the_ids_that_decode_to_one_alone(tokenizer):
    found = text.full_stops(tokenizer)
    assert tokenizer.convert_tokens_to_ids(".") in found
    decoded = {i: tokenizer.decode([i]) for i in range(len(tokenizer))}
    assert found == [i for i, token in decoded.items() if token.strip(" ") == "."]
