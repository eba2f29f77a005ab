"""The token ids that random inputs are drawn from: those that occur in a run's texts."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase

from pipeline.errors import InputError
from pipeline.inputs.text import load_tokenizer
from pipeline.models.facts import ModelFacts

# Any of these files marks a folder with a tokenizer.
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


@dataclass(frozen=True)
class Drawable:
    """The ids that may be drawn, in ascending order, with a description of their source."""

    ids: Int[np.ndarray, " id"]
    source: str


def drawable_ids(
    given: tuple[int, int] | None, run_folder: str, trained: int | None, model: ModelFacts
) -> Drawable:
    """Return the ids to draw from: a given range, the tokenizer's, the training's, or all rows.

    given: first id, and the one after the last. trained: number of ids in the run's training.yaml.
    The model's own special ids are never drawn. Embeddings are often padded to a round number of
    rows; if it is unknown which rows belong to a token, all are used, and `source` calls this a
    guess. Raises InputError for a range that exceeds the rows of the embedding.
    """
    rows, found = model.vocabulary, run_tokenizer(run_folder)
    if given is not None:
        first, end = given
        if not 0 <= first < end <= rows:
            raise InputError(
                f"ids: [{first}, {end}]: expected a first id and the one after the last, within "
                f"0 and {rows:,}, the number of rows of the model's embedding"
            )
        source = f"ids {first:,} to {end - 1:,}, as given"
        return _without_special(np.arange(first, end), source, model)
    if isinstance(found, PreTrainedTokenizerBase):
        return _of_tokenizer(found, model)
    if trained is not None and trained <= rows:
        source = f"the {trained:,} ids that the run's training.yaml names"
        return _without_special(np.arange(trained), source, model)
    guess = f"{found}: all {rows:,} rows of the embedding, as a guess"
    return _without_special(np.arange(rows), guess, model)


def run_tokenizer(run_folder: str) -> PreTrainedTokenizerBase | str:
    """Return the tokenizer of a run's folder or of its checkpoints, or the reason for none."""
    folder = Path(run_folder)
    # A Trainer saves the tokenizer with each checkpoint; they are the same, and one is enough.
    inside = sorted(path.parent for name in _TOKENIZERS for path in folder.glob(f"*/{name}"))
    for place in (folder, *inside[:1]):
        if any((place / name).is_file() for name in _TOKENIZERS):
            try:
                return load_tokenizer(place)
            except Exception:  # tokenizer libraries raise errors of any type on damaged files
                return "the tokenizer beside the checkpoints cannot be read"
    return "no tokenizer beside the checkpoints"


def _of_tokenizer(tokenizer: PreTrainedTokenizerBase, model: ModelFacts) -> Drawable:
    known = set(tokenizer.get_vocab().values())
    plain = known - set(tokenizer.all_special_ids) - set(tokenizer.added_tokens_decoder)
    plain = plain or known - set(tokenizer.all_special_ids)  # some hold nothing but added tokens
    ids = np.array(sorted(id_ for id_ in plain if id_ < model.vocabulary), dtype=np.int64)
    said = "ids of the run's tokenizer, without special and added ones"
    if max(known, default=0) >= model.vocabulary:
        said += (
            f"; the tokenizer has {len(known):,} ids, the model {model.vocabulary:,} rows: it may "
            "be another model's"
        )
    return _without_special(ids, said, model, counted=True)


def _without_special(
    ids: Int[np.ndarray, " id"], source: str, model: ModelFacts, counted: bool = False
) -> Drawable:
    left = np.setdiff1d(ids, model.special_token_ids)
    return Drawable(left, f"the {len(left):,} {source}" if counted else source)
