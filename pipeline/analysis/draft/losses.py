"""Choose the input on which losses are computed, and the tokens that are compared."""

from typing import Any

from pipeline.analysis.draft.entries import Asked, Entry, measure_entry
from pipeline.analysis.draft.lengths import block_length, compared_tokens
from pipeline.analysis.draft.seen import Seen
from pipeline.config import RepeatedInput, TextInput
from pipeline.errors import InputError
from pipeline.inputs import text
from pipeline.inputs.bos import beginning
from pipeline.inputs.documents import Documents, files_of
from pipeline.inputs.sequences import packed_ids
from pipeline.measures.token_loss import LATE_TOKEN
from pipeline.training import Text, held_out

_HELD_OUT_TOKENS = 2**14
_LONG_BLOCK = 255  # two of them and BOS reach the tokens that Olsson et al. 2022 compare


def losses(seen: Seen, asked: Asked) -> tuple[list[Entry], list[Entry]]:
    """Return the input on which losses are computed, and their measure."""
    if asked.text is not None:
        made = _text(seen, asked)
    elif seen.training is not None:
        made = _held_out(seen)
    else:
        return _losses_without_text(seen)
    measure = _token_loss("token_loss", made[1])
    return [made[0]], [measure] if measure else []


def _losses_without_text(seen: Seen) -> tuple[list[Entry], list[Entry]]:
    usual = TextInput(path="prose.txt")
    length = min(usual.length, seen.facts.context or usual.length)
    value = _in_file(usual.path, {}, usual.sequences, length)
    why = (
        "Losses on a text of yours: give its path and switch this on with `token_loss` below, or "
        f"write this file again with --text FILE. {_tokenizer_of(seen)}"
    )
    inputs = [Entry("text", value, why, off=True)]
    on_text = _token_loss("token_loss", length)
    measures = [] if on_text is None else [Entry(on_text.key, on_text.value, "On text.", off=True)]
    block = block_length(_LONG_BLOCK, seen.facts.context, seen.n_drawable, seen.bos)
    if block:
        long = block > RepeatedInput().block_length
        name = "long_repeats" if long else "repeated"
        if long:
            inputs.append(repeated(name, seen, block, 16))
        if measure := _token_loss(f"token_loss.{name}", 2 * block + seen.bos):
            measures.append(measure)
    return inputs, measures


def repeated(name: str, seen: Seen, block: int, sequences: int) -> Entry:
    """Return an input of repeated random tokens, which every model can read."""
    length, context = 2 * block + seen.bos, seen.facts.context
    of = f" of a context of {context:,}" if context is not None else ""
    why = (
        f"{'BOS, then a' if seen.bos else 'A'} block of at most {block} random tokens, and the "
        f"block again: {length} tokens{of}. Drawn from {seen.drawn_from}."
    )
    value = {"kind": "repeated", "block_length": block, "repeats": 2, "sequences": sequences}
    return Entry(name, value, why)


def _tokenizer_of(seen: Seen) -> str:
    if seen.tokenizer:
        return f"Add `tokenizer: FOLDER` to it: there is {seen.tokenizer}."
    return "The tokenizer beside the checkpoints is used."


def _token_loss(key: str, length: int) -> Entry | None:
    tokens = compared_tokens(length)
    if tokens is None:
        return None
    early, late = tokens
    why = "" if length > LATE_TOKEN else (
        f"The in-context score compares tokens 500 and 50 of 512 in Olsson et al. 2022; {late} and "
        f"{early} are the same shares of {length}."
    )  # fmt: skip
    return measure_entry(key, why, early_token=early, late_token=late)


def _text(seen: Seen, asked: Asked) -> tuple[Entry, int]:
    """Return the input of a text file, and the length of its sequences in tokens."""
    assert asked.text_file is not None and asked.text is not None
    if seen.tokenizer and not asked.tokenizer:
        raise InputError(
            f"{asked.text_file}: cannot be tokenised, there is {seen.tokenizer}: give --tokenizer "
            "FOLDER, or leave out --text"
        )
    usual = TextInput(path=asked.text)
    column = asked.column or usual.column
    tokenizer = text.load_tokenizer(asked.tokenizer or seen.run_folder)
    begin = beginning(usual.bos, tokenizer, seen.run_folder, seen.facts)
    documents = Documents(files_of(asked.text_file), column)
    length = min(usual.length, seen.facts.context or usual.length)
    ids = packed_ids(documents, tokenizer, usual.sequences * (length - len(begin.ids)))
    length = min(length, len(begin.ids) + len(ids))
    room = length - len(begin.ids)
    if length < 3 or room < 1:
        raise InputError(
            f"{asked.text_file}: {len(ids)} tokens in sequences of {length}, expected at least 3: "
            "give more text, or leave out --text"
        )
    sequences = min(usual.sequences, len(ids) // room)
    own = {"column": column} if asked.column else {}
    own |= {"tokenizer": asked.tokenizer} if asked.tokenizer else {}
    value = _in_file(asked.text, own, sequences, length)
    whole = f"of the text's {len(ids):,} tokens" if documents.is_one_text else (
        f"tokens of {documents.said()}"
    )  # fmt: skip
    why = f"The first {sequences * room:,} {whole}, {begin.said}."
    return Entry("text", value, why), length


def _in_file(path: str, own: dict[str, str], sequences: int, length: int) -> dict[str, Any]:
    """Return an input of text as it stands in the file. own: its column and
    tokenizer where they are not the usual ones.
    """
    shape = {"sequences": sequences, "length": length}
    return {"kind": "text", "path": path, **own, "bos": "auto", **shape}


def _held_out(seen: Seen) -> tuple[Entry, int]:
    """Return held-out sequences of an organism, as many as there are, and their length."""
    assert seen.training is not None
    length = seen.training.task.context
    wanted = max(1, _HELD_OUT_TOKENS // length)
    sequences = _available(seen, wanted) if isinstance(seen.training.task, Text) else wanted
    why = (
        f"Sequences of {length} tokens like those that the run was trained on, but not among them "
        "(training.yaml says how they were made)."
    )
    return Entry("text", {"kind": "held_out", "sequences": sequences}, why), length


def _available(seen: Seen, wanted: int) -> int:
    """Return how many held-out sequences there are, to a power of two below `wanted`."""
    while wanted > 1:
        try:
            held_out(seen.run_folder, wanted, 0)
        except InputError:
            wanted //= 2
        else:
            break
    return wanted
