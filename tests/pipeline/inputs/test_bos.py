"""The tokens that sequences of text begin with: as the tokenizer does, and as is asked for."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pipeline.errors import InputError
from pipeline.inputs.bos import Beginning, beginning, put_before
from pipeline.models.facts import ModelFacts
from tests.pipeline.inputs.tokenizers_made import like_gpt2, like_llama


def model(bos: int | None = None) -> ModelFacts:
    return ModelFacts(2, 2, 2, 4, 8, 300, 64, (), "test", bos, ())


def without_special(folder: Path) -> PreTrainedTokenizerFast:
    """Save a tokenizer of one word, without special tokens."""
    words = Tokenizer(models.WordLevel({"w": 0}, unk_token="w"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=words)
    made.save_pretrained(folder)
    return made


def test_what_a_tokenizer_puts_before_a_text_is_found(tmp_path: Path) -> None:
    assert put_before(like_gpt2(tmp_path / "a")) == ()
    assert put_before(like_llama(tmp_path / "b")) == (278,)
    assert put_before(like_llama(tmp_path / "c", after="</s>")) == (278,)
    assert put_before(like_llama(tmp_path / "d", before="", after="</s>")) == ()
    assert put_before(like_llama(tmp_path / "e", before="<s> </s>")) == (278, 279)
    assert put_before(without_special(tmp_path / "f")) == ()


@pytest.mark.parametrize(
    ("asked", "tokenizer", "named", "expected"),
    [
        ("auto", like_llama, None, Beginning((278,), "with BOS <s> (as the tokenizer does)")),
        (True, like_llama, 278, Beginning((278,), "with BOS <s> (as the tokenizer does)")),
        ("auto", like_llama, 3, Beginning((278,), "with BOS <s> (as the tokenizer does; the run's "
                                                  "files name id 3 as BOS)")),
        (False, like_llama, None, Beginning((), "without BOS, as given, though the tokenizer adds "
                                                "<s>")),
        ("auto", like_gpt2, 0, Beginning((), "without BOS (the tokenizer adds none)")),
        (False, like_gpt2, 0, Beginning((), "without BOS, as given")),
        (True, without_special, 5, Beginning((5,), "with BOS id 5 (the tokenizer adds none; the "
                                                   "run's files name it)")),
    ],
)  # fmt: skip
def test_each_choice_says_what_it_does(
    tmp_path: Path, asked: object, tokenizer: object, named: int | None, expected: Beginning
) -> None:
    made = tokenizer(tmp_path / "tokenizer")  # type: ignore[operator]
    assert beginning(asked, made, str(tmp_path), model(named)) == expected  # type: ignore[arg-type]


def test_bos_is_the_one_that_the_run_names_before_the_tokenizers(tmp_path: Path) -> None:
    made = like_gpt2(tmp_path / "elsewhere")
    assert beginning(True, made, str(tmp_path), model()).ids == (0,)  # the tokenizer's own
    assert "does not add it" in beginning(True, made, str(tmp_path), model()).said
    assert beginning(True, made, str(tmp_path), model(7)).ids == (7,)


def test_bos_that_nothing_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`bos: true`, but neither the tokenizer nor the run's"):
        beginning(True, without_special(tmp_path), str(tmp_path), model())
