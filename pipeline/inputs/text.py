"""Text as token ids: byte-level BPE tokenizers, Python's standard library as a corpus, cutting."""

import sysconfig
from collections.abc import Iterable, Sequence
from itertools import accumulate, takewhile
from pathlib import Path

import numpy as np
from jaxtyping import Int, Integer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from pipeline.errors import InputError, first_line
from pipeline.inputs.end_of_text import END_OF_TEXT
from pipeline.outside import LARGEST, content_of, largest, parsed_json, reading

_LARGEST_TEXT = 2**30  # bytes
_SHOWN = 200  # characters of a library's message
_TOKENIZER_FILES = {
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "tokenizer.model", "config.json",
}  # fmt: skip

# Tests and installed packages, which differ between machines; the last two hold tables, not code.
_NOT_LIBRARY_SOURCE = {
    "test", "tests", "idle_test", "site-packages", "dist-packages", "encodings", "pydoc_data",
}  # fmt: skip


def standard_library(limit: int) -> list[Path]:
    """Return Python's own source files in alphabetical order, up to `limit` bytes in total."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [
        path
        for path in sorted(root.rglob("*.py"))
        if _NOT_LIBRARY_SOURCE.isdisjoint(path.relative_to(root).parts)
    ]
    sizes = accumulate(path.stat().st_size for path in files)
    return files[: sum(1 for _ in takewhile(lambda size: size <= limit, sizes))]


def read(path: Path) -> str:
    """Return the text of a UTF-8 file. Raises InputError if it is absent or not UTF-8."""
    try:
        return content_of(path, InputError, _LARGEST_TEXT).decode("utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): give a text file") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})"
        ) from error


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer (as GPT-2's) of `vocabulary` ids on texts.

    Raises InputError if the vocabulary is below 257 (the bytes and the end of text) or the texts
    are too short to fill it.
    """
    if vocabulary < 257:
        raise InputError(f"vocabulary = {vocabulary}: byte-pair encoding needs at least 257 ids")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],  # the first special token has id 0, END_OF_TEXT_ID
        # All 256 bytes, so that every text can be encoded, whatever the corpus contains.
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() < vocabulary:
        raise InputError(
            f"vocabulary = {vocabulary}: the text yields only {tokenizer.get_vocab_size()} "
            "byte pairs worth an id: lower the vocabulary, or give more text"
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT
    )


def load_tokenizer(place: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder, or of the first of its checkpoint folders that has one.

    A name that is no folder is looked up on the Hub. Raises InputError if no tokenizer is found.
    """
    folder = Path(place)
    inside = sorted(folder.glob("*/tokenizer_config.json"))
    if inside and not (folder / "tokenizer_config.json").exists():
        folder = inside[0].parent
    try:
        if not folder.exists():
            return AutoTokenizer.from_pretrained(str(place), trust_remote_code=False)
        _check_files(folder)
        with reading(str(folder), InputError, passing=()):
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # of any type, for damaged files
        raise InputError(
            f"{place}: no tokenizer can be read from here ({_reason(error)}): name a folder that "
            "holds tokenizer.json and tokenizer_config.json"
        ) from error


def _reason(error: Exception) -> str:
    return first_line(error)[:_SHOWN]


def _check_files(folder: Path) -> None:
    """Raise InputError for a tokenizer's file that is too large or no sound JSON."""
    for file in sorted(folder.iterdir()):
        if file.name in _TOKENIZER_FILES and not file.is_dir():
            content = content_of(file, InputError, largest(file.name))
            # Larger ones are parsed by the tokenizer's own reader alone, which limits depth too.
            if file.suffix == ".json" and len(content) <= LARGEST:
                parsed_json(content, finite=False)


def full_stops(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of a full stop alone, with or without a space before it, ascending."""
    # Byte-level BPE writes a space as "Ġ", sentencepiece as "▁".
    spaces = "Ġ▁ "
    return sorted(i for token, i in tokenizer.get_vocab().items() if token.strip(spaces) == ".")


def tokenise_corpus(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> Int[np.ndarray, " token"]:
    """Return the token ids of all texts in order, with the end-of-text token after each."""
    end = np.array([tokenizer.eos_token_id])
    return np.concatenate([part for text in texts for part in (ids_of(text, tokenizer), end)])


def ids_of(text: str, tokenizer: PreTrainedTokenizerBase) -> Int[np.ndarray, " token"]:
    """Return the token ids of a text, without special tokens."""
    # verbose=False: no warning about the model's context, since the tokens are cut later
    encoded = tokenizer(text, add_special_tokens=False, verbose=False)
    return np.asarray(encoded["input_ids"], dtype=np.int64)


def cut(
    ids: Integer[np.ndarray, " token"], length: int
) -> Integer[np.ndarray, "sequence position"]:
    """Return consecutive sequences of `length` tokens; the remainder is dropped."""
    n_sequences = len(ids) // length
    return ids[: n_sequences * length].reshape(n_sequences, length)


def split_stream(
    ids: Integer[np.ndarray, " token"], held_out_share: float
) -> tuple[Integer[np.ndarray, " kept"], Integer[np.ndarray, " held_out"]]:
    """Return the stream without its last `held_out_share`, and that last part."""
    boundary = len(ids) - round(held_out_share * len(ids))
    return ids[:boundary], ids[boundary:]
