"""Prompts of the indirect-object task, clean and corrupted.

Two people are named; one of them is named again, as the subject of a gift, so that the other's name
comes next (Wang et al. 2023, Interpretability in the Wild, arXiv 2211.00593):

    When Mary and John went to the station, John gave a ring to   (clean: "Mary")
    When Mary and John went to the station, Mary gave a ring to   (corrupted)
"""

from collections import defaultdict
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase

from pipeline.errors import InputError

TEMPLATES = (
    "When {first} and {second} went to the {place}, {giver} gave a {thing} to",
    "After {first} and {second} met at the {place}, {giver} handed a {thing} to",
    "While {first} and {second} sat in the {place}, {giver} offered a {thing} to",
    "Then {first} and {second} left the {place}, and {giver} passed a {thing} to",
)
PLACES = ("station", "garden", "office", "school", "market", "house", "park", "store")
THINGS = ("ring", "book", "letter", "drink", "ball", "key", "phone", "bag")
NAMES = (
    "Mary", "John", "Tom", "James", "Anna", "Paul", "Sarah", "Mark", "Kate", "David", "Emma",
    "Peter", "Laura", "Simon", "Alice", "Robert", "Jane", "Michael", "Ruth", "Daniel", "Lucy",
    "George", "Helen", "Martin", "Rose", "Henry", "Clara", "Adam", "Sam", "Jack",
)  # fmt: skip


@dataclass(frozen=True)
class Prompts:
    """Prompts of one length, with the names in the clean ones and their positions.

    indirect_object, subject: token ids. indirect_object_at: its position. subject_at: the two
    positions of the subject; the corrupted prompts have the indirect object at the second.
    """

    clean: Int[np.ndarray, "sequence position"]
    corrupted: Int[np.ndarray, "sequence position"]
    indirect_object: Int[np.ndarray, " sequence"]
    subject: Int[np.ndarray, " sequence"]
    indirect_object_at: Int[np.ndarray, " sequence"]
    subject_at: Int[np.ndarray, "sequence 2"]


def prompts(
    tokenizer: PreTrainedTokenizerBase, n_sequences: int, bos_id: int | None, seed: int
) -> Prompts:
    """Return prompts with random names, order, giver, place and thing, after BOS if there is one.

    Only names that are a single token are used. All prompts have the most common length of a
    sentence in this tokenizer. Raises InputError if fewer than two names are a single token.
    """
    generator = np.random.default_rng(seed)
    names = whole_names(tokenizer)
    sentences = _of_commonest_length(tokenizer, *list(names)[:2])
    rows, subjects, objects = [], [], []
    for _ in range(n_sequences):
        sentence = sentences[generator.integers(len(sentences))]
        giver, other = generator.permutation(list(names))[:2]
        first, second = generator.permutation([giver, other])
        ids = encoded(tokenizer, sentence.format(first=first, second=second, giver=giver))
        rows.append(ids if bos_id is None else [bos_id, *ids])
        subjects.append(names[giver])
        objects.append(names[other])
    return _located(np.array(rows), np.array(objects), np.array(subjects))


def _located(
    clean: Int[np.ndarray, "sequence position"],
    objects: Int[np.ndarray, " sequence"],
    subjects: Int[np.ndarray, " sequence"],
) -> Prompts:
    (_, object_at), (of, subject_at) = (
        np.nonzero(clean == name[:, None]) for name in (objects, subjects)
    )
    # No template, place or thing contains a name, and each name is one token after any word.
    assert len(object_at) == len(clean) and (np.bincount(of) == 2).all()
    subject_at = subject_at.reshape(-1, 2)
    corrupted = clean.copy()
    corrupted[np.arange(len(clean)), subject_at[:, 1]] = objects
    return Prompts(clean, corrupted, objects, subjects, object_at, subject_at)


def whole_names(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the names that are a single token after a word, each with its token id.

    Raises InputError if there are fewer than two.
    """
    before = encoded(tokenizer, "When")
    found = {}
    for name in NAMES:
        ids = encoded(tokenizer, f"When {name}")
        if len(ids) == len(before) + 1 and ids[:-1] == before:
            found[name] = ids[-1]
    if len(found) < 2:
        raise InputError(
            f"the tokenizer has a single token for {len(found)} of {len(NAMES)} names, expected at "
            "least 2: prompts about indirect objects need a tokenizer trained on text with names"
        )
    return found


def _of_commonest_length(tokenizer: PreTrainedTokenizerBase, one: str, other: str) -> list[str]:
    """Return the sentences, with placeholders for names, of the most common length in tokens."""
    by_length: dict[int, list[str]] = defaultdict(list)
    for template, place, thing in product(TEMPLATES, PLACES, THINGS):
        sentence = template.replace("{place}", place).replace("{thing}", thing)
        ids = encoded(tokenizer, sentence.format(first=one, second=other, giver=one))
        by_length[len(ids)].append(sentence)
    return max(by_length.values(), key=len)


def encoded(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids of a text, without special tokens."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]
