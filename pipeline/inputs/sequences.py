"""Cut documents into sequences of tokens: packed one after the other, or one a sequence."""

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase

from pipeline.errors import InputError
from pipeline.inputs.documents import Documents
from pipeline.inputs.text import ids_of

MOST_TRIED = 1_000  # documents or rows, for each sequence

Sequences = Int[np.ndarray, "sequence position"]


@dataclass(frozen=True)
class Cut:
    """Sequences of tokens. said: how they were cut, for people."""

    tokens: Sequences
    said: str


def cut_documents(
    documents: Documents,
    tokenizer: PreTrainedTokenizerBase,
    sequences: int,
    length: int,
    begin: tuple[int, ...],
    separate: bool,
) -> Cut:
    """Return sequences of `length` tokens, each of them beginning with the tokens `begin`.

    Only as many documents are read as are needed. separate: each sequence is the beginning of
    another document; those that are shorter are left out. Else documents are packed: one after the
    other with the tokenizer's end-of-text token after each (none after a text file, which is one
    document), cut after every length - len(begin) tokens wherever that is. Raises InputError where
    there are not enough tokens, or not enough documents that are long enough.
    """
    room = length - len(begin)
    if room < 1:
        raise InputError(
            f"length = {length}: leaves no room for text after the {len(begin)} tokens with which "
            "each sequence begins: raise `length`"
        )
    if separate:
        ids, said = _separate(documents, tokenizer, sequences, room)
    else:
        ids, said = _packed(documents, tokenizer, sequences, length, room)
    start = np.tile(np.array(begin, dtype=np.int64), (sequences, 1))
    return Cut(np.concatenate([start, ids], axis=1), said)


def packed_ids(
    documents: Documents, tokenizer: PreTrainedTokenizerBase, wanted: int
) -> Int[np.ndarray, " token"]:
    """Return the ids of documents one after the other, until there are `wanted`, or of all.

    The ids of a text file are all returned: it is tokenised as a whole.
    """
    parts: list[Int[np.ndarray, " token"]] = []
    end = [] if documents.is_one_text else _end(tokenizer)
    count = 0
    with closing(_ids(documents, tokenizer)) as each:
        for ids in each:
            parts += [ids, np.array(end, dtype=np.int64)]
            count += len(ids) + len(end)
            if count >= wanted:
                break
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _packed(
    documents: Documents,
    tokenizer: PreTrainedTokenizerBase,
    sequences: int,
    length: int,
    room: int,
) -> tuple[Sequences, str]:
    wanted = sequences * room
    ids = packed_ids(documents, tokenizer, wanted)
    if len(ids) < wanted:
        of = "" if documents.is_one_text else f" in {documents.said()}"
        beside = " beside BOS" if room < length else ""
        raise InputError(
            f"{_place(documents)}: holds {len(ids)} tokens{of}, expected at least {sequences} x "
            f"{room} = {wanted}{beside}: lower `sequences` or `length`, or give more text"
        )
    said = documents.said()
    if not documents.is_one_text:
        said += " packed"
        said += "" if _end(tokenizer) else ", without a token between them: the tokenizer has none"
    return ids[:wanted].reshape(sequences, room), said


def _separate(
    documents: Documents, tokenizer: PreTrainedTokenizerBase, sequences: int, room: int
) -> tuple[Sequences, str]:
    found: list[Int[np.ndarray, " token"]] = []
    with closing(_ids(documents, tokenizer)) as each:
        for ids in each:
            if len(ids) >= room:
                found.append(ids[:room])
            if len(found) == sequences or documents.read >= sequences * MOST_TRIED:
                break
    if len(found) < sequences:
        raise InputError(
            f"{_place(documents)}: {len(found):,} of {documents.said()} have at least {room} "
            f"tokens, expected {sequences:,}: lower `sequences` or `length`, or pack them "
            "(`documents: packed`)"
        )
    short = documents.read - len(found)
    said = f"the beginnings of {len(found):,} of {documents.said()}"
    return np.stack(found), said + (f", {short:,} shorter ones left out" if short else "")


def _ids(
    documents: Documents, tokenizer: PreTrainedTokenizerBase
) -> Generator[Int[np.ndarray, " token"], None, None]:
    with closing(documents.texts()) as texts:
        for one in texts:
            yield ids_of(one, tokenizer)


def _end(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    end = tokenizer.eos_token_id
    return [end] if isinstance(end, int) else []


def _place(documents: Documents) -> str:
    files = documents.files
    return str(files[0] if len(files) == 1 else files[0].parent)
