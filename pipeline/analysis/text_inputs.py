"""Building inputs from text and data sets, with the run's tokenizer, and from given token ids."""

from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Integer
from transformers import PreTrainedTokenizerBase

from pipeline.analysis.faults import Fault, Faults, RefusedError
from pipeline.config import ArrayInput, NaturalMatchesInput, TextInput
from pipeline.errors import InputError
from pipeline.inputs import arrays, bos, natural_matches, rows, sequences, text
from pipeline.inputs.batch import Input
from pipeline.inputs.documents import Documents, files_of
from pipeline.models.facts import ModelFacts
from pipeline.outside import is_whole
from pipeline.training import held_out


def text_input(name: str, spec: TextInput, run_folder: str, model: ModelFacts) -> Input:
    """Return texts as sequences of tokens. Raises InputError where they cannot be made."""
    try:
        tokenizer = text.load_tokenizer(spec.tokenizer or run_folder)
    except InputError as error:
        faults = Faults()
        faults.add(Fault(f"inputs.{name}", str(error)))
        with faults.gathered(f"inputs.{name}"):
            _try_to_read(spec)  # only to tell its fault at once too
        raise RefusedError(faults.found) from error
    try:
        begin = bos.beginning(spec.bos, tokenizer, run_folder, model)
    except InputError as error:
        raise InputError(f"input {name!r}: {error}") from error
    documents = _documents(spec)
    made = sequences.cut_documents(
        documents, tokenizer, spec.sequences, spec.length, begin.ids, spec.documents == "separate"
    )
    # Of the ids in use, because tokenizers and embeddings may be padded to different sizes.
    check_tokenizer(name, made.tokens, tokenizer, spec.tokenizer, model)
    attributes: dict[str, Any] = {"full_stop_ids": text.full_stops(tokenizer)}
    # Present only where it applies: texts that were stored before it was keep their digest.
    if begin.ids:
        attributes["begins_with"] = list(begin.ids)
    said = f"{spec.sequences:,} sequences of {spec.length:,} tokens, {begin.said}, {made.said}"
    return Input(name, spec.kind, made.tokens, attributes=attributes, said=said)


def _documents(spec: TextInput) -> Documents:
    """Return the documents of an input. Raises InputError for a key that they have no use for."""
    documents = Documents(files_of(spec.path), spec.column)
    if spec.column != TextInput.model_fields["column"].default and not any(
        map(rows.is_rows, documents.files)
    ):
        raise InputError(
            f"{spec.path}: is a text, which has no columns: leave `column` out, or give a data set"
        )
    if spec.documents == "separate" and documents.is_one_text:
        raise InputError(
            f"{spec.path}: is one text, and so one document: leave `documents: separate` out, or "
            "give a data set or a folder of texts"
        )
    return documents


def _try_to_read(spec: TextInput) -> None:
    """Read the first document. Raises InputError if that cannot be done."""
    with closing(_documents(spec).texts()) as texts:
        next(texts, None)


def natural_matches_input(
    name: str, spec: NaturalMatchesInput, run_folder: str, model: ModelFacts
) -> Input:
    """Return the sequences of a text, or of a run's held-out ones, that have a probe.

    Raises InputError where none has one, and as `text_input` does.
    """
    searched = None
    if spec.path is not None:
        shared = spec.model_dump(include=TextInput.model_fields.keys() - {"kind"})
        searched = text_input(name, TextInput(**shared), run_folder, model)
    begins_with = searched.attributes.get("begins_with", []) if searched else []
    said = f"searched for probes: {searched.said}" if searched else ""
    try:
        tokens = searched.tokens if searched else held_out(run_folder, spec.sequences, spec.seed)
        made = natural_matches.natural_matches(tokens, spec.match, spec.seed, len(begins_with))
    except InputError as error:
        remedy = "" if searched else "; or give a text file as `path`"
        raise InputError(f"input {name!r}: {error}{remedy}") from error
    chosen = {"nothing": made.clean, "earlier": made.earlier, "last": made.last}[spec.replaced]
    probes = {"probe": made.probe, "source": made.source}
    attributes = {"replaced": spec.replaced, "match": spec.match, "seed": spec.seed}
    if begins_with:
        attributes["begins_with"] = begins_with
    return Input(name, spec.kind, chosen, probes, attributes, said=said)


def array_input(name: str, spec: ArrayInput) -> Input:
    """Return given token ids. Raises InputError for a file that holds others, or too few."""
    path = Path(spec.path)
    if path.is_dir() or rows.is_rows(path):
        return _of_rows(name, spec)
    if spec.column != ArrayInput.model_fields["column"].default:
        raise InputError(f"{path}: is no data set, and has no columns: leave `column` out")
    found = arrays.layout_of(path, spec.dtype)
    if len(found.shape) == 1:
        ids = arrays.first_ids(path, found, spec.sequences * spec.length)
        return Input(name, spec.kind, _cut(ids, spec.sequences, spec.length, spec.path))
    lines, columns = found.shape
    if lines < spec.sequences or columns < spec.length:
        raise InputError(
            f"{path}: holds {lines} sequences of {columns} tokens, expected at least "
            f"{spec.sequences} of {spec.length}: lower `sequences` or `length` of input {name!r}"
        )
    ids = arrays.first_ids(path, found, spec.sequences, spec.length)
    return Input(name, spec.kind, ids)


def _of_rows(name: str, spec: ArrayInput) -> Input:
    """Return the first ids of each row of a data set, without the rows that have too few."""
    found: list[list[int]] = []
    tried = 0
    each = (value for file in files_of(spec.path) for value in rows.values(file, spec.column))
    for value in islice(each, spec.sequences * sequences.MOST_TRIED):
        tried += 1
        if _are_ids(value) and len(value) >= spec.length:
            found.append(value[: spec.length])
        if len(found) == spec.sequences:
            break
    if len(found) < spec.sequences:
        raise InputError(
            f"{spec.path}: {len(found):,} of {tried:,} rows have at least {spec.length} token ids "
            f"in the column {spec.column!r}, expected {spec.sequences:,}: lower `sequences` or "
            f"`length` of input {name!r}"
        )
    short = tried - len(found)
    left_out = f", {short:,} rows without as many left out" if short else ""
    said = (
        f"{spec.sequences:,} sequences of {spec.length:,} tokens, the first ids of as many "
        f"rows{left_out}"
    )
    return Input(name, spec.kind, np.array(found, dtype=np.int64), said=said)


def _are_ids(value: object) -> bool:
    return isinstance(value, list) and all(is_whole(one) for one in value)


def _cut(
    ids: Integer[np.ndarray, " token"], n_sequences: int, length: int, path: str
) -> Int[np.ndarray, "sequence position"]:
    if len(ids) < n_sequences * length:
        raise InputError(
            f"{path}: holds {len(ids)} tokens, expected at least {n_sequences} x {length} = "
            f"{n_sequences * length}: lower `sequences` or `length`, or give more text"
        )
    return np.asarray(ids[: n_sequences * length], dtype=np.int64).reshape(n_sequences, length)


def check_tokenizer(
    name: str,
    tokens: Int[np.ndarray, "sequence position"],
    tokenizer: PreTrainedTokenizerBase,
    given: str | None,
    model: ModelFacts,
) -> None:
    """Raise InputError where a tokenizer returned ids beyond the model's embedding."""
    if tokens.max(initial=-1) < model.vocabulary:
        return
    whose = f"the tokenizer {given}" if given else "the run's tokenizer"
    raise InputError(
        f"input {name!r}: {whose} has {len(tokenizer):,} ids, the model {model.vocabulary:,} rows, "
        f"and the text uses id {tokens.max()}: give the one that the model was trained with as "
        "`tokenizer`"
    )
